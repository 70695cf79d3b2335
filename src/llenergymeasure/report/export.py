"""How does a result become a file that another program reads?"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol, TypeAlias

from llenergymeasure.analysis.imported import Imported
from llenergymeasure.config.extras import install
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import identity
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.records.figures import amount
from llenergymeasure.report.protocols import score_row, summary_lines
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.rows import FACTS, Cell, Metrics, Row, columns, long, long_columns, parts, wide
from llenergymeasure.results.study_table import latex_table
from llenergymeasure.results.summary import MISSING
from llenergymeasure.results.windows import WindowsResult

# A result with what its study says of it.
Item: TypeAlias = tuple[Row, ExperimentResult | WindowsResult | Imported]

# Rows of a Parquet file that are in memory at once.
GROUP = 500
_LATEX = {
    "energy per token": "energy_per_output_token_j",
    "energy, total": "energy_total_j",
    "throughput": "output_tokens_per_second",
    "TTFT": "ttft_p50_s",
    "TPOT": "tpot_p50_s",
    "memory": "peak_bytes",
}
_UNITS = {"_j": "joules", "_s": "seconds", "_w": "watts", "_bytes": "bytes", "_g": "grams"}


class Out(Protocol):
    """Where text goes."""

    def write(self, text: str, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported. `labels` are the columns that studies add, with the kind of their values; `is_long`:
    a row each metric; `skip` hears of a result that a form has no place for.
    """

    items: Iterable[Item]
    labels: Mapping[str, type[Cell]]
    is_long: bool
    skip: Callable[[str], None]

    @property
    def names(self) -> list[str]:
        return [*self.labels, *(long_columns() if self.is_long else columns())]

    def rows(self) -> Iterator[Row]:
        empty: Row = dict.fromkeys(self.labels)
        for own, result in self.items:
            for facts, metrics in _parts(result):
                if self.is_long:
                    yield from ({**empty, **own, **row} for row in long(facts, metrics))
                else:
                    yield {**empty, **own, **wide(facts, metrics)}

    def of_models(self) -> Iterator[ExperimentResult]:
        for _, result in self.items:
            if isinstance(result, ExperimentResult):
                yield result
            else:
                kind, name = (
                    ("of another tool", result.name)
                    if isinstance(result, Imported)
                    else (f"of {result.kind}", result.experiment_id)
                )
                self.skip(f"{name} is {kind}: this form is for llem's own runs of a model")


def write_csv(export: Export, to: Out) -> None:
    _csv(export.rows(), export.names, to)


def write_jsonl(export: Export, to: Out) -> None:
    for row in export.rows():
        to.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_latex(export: Export, to: Out) -> None:
    """The figures of a paper's table; columns that hold nothing are left out."""
    head, table = ["experiment", *_LATEX, "runs", ""], []
    for own, result in export.items:
        for facts, metrics in _parts(result):
            label = own.get("label") or facts.get("window") or facts["experiment_id"]
            modelled = facts.get("method") in {"modelled", "mixed"}
            cells = [_amount(metrics.get(name), name, modelled=modelled) for name in _LATEX.values()]
            valid = "energy is not valid" if facts.get("valid") is False else ""
            table.append([str(label), *cells, str(facts.get("runs") or MISSING), valid])
    kept = [at for at in range(len(head)) if any(row[at] not in {"", MISSING} for row in table)]
    shown = [[row[at] for at in kept] for row in (head, *table)]
    to.write(latex_table(shown[0], shown[1:]) + "\n")


def write_openmetrics(export: Export, to: Out) -> None:
    """Gauges, each with its interval in gauges of their own, and an info metric with what a result is of.

    Samples of one name must follow one another: each name has a file until all results were read.
    """
    seen: set[str] = set()
    with ExitStack() as stack:
        families: dict[str, IO[str]] = {}
        for row in Export(export.items, export.labels, is_long=False, skip=export.skip).rows():
            named = ("experiment_id", "started_at", "window")
            own = _label_set({key: row[key] for key in named if row[key] is not None})
            if own in seen:
                continue
            seen.add(own)
            said = {_name(key): row[key] for key in (*export.labels, *FACTS) if row[key] is not None}
            for name, unit, value, labels in [
                ("llem_result", "info", 1.0, _label_set(said)),
                *((*_family(key), row[key], own) for key in columns() if key not in FACTS),
            ]:
                if value is None:
                    continue
                if name not in families:
                    families[name] = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))
                    kind = "info" if unit == "info" else "gauge"
                    families[name].write(f"# TYPE {name} {kind}\n")
                    families[name].write(f"# UNIT {name} {unit}\n" if unit not in {"", "info"} else "")
                families[name].write(f"{name}{'_info' if unit == 'info' else ''}{labels} {value!r}\n")
        for file in families.values():
            file.seek(0)
            shutil.copyfileobj(file, to)
    to.write("# EOF\n")


def write_score(export: Export, to: Out) -> None:
    rows = [score_row(result) for result in export.of_models()]
    _csv(rows, list(rows[0]) if rows else [], to)


def write_mlperf(export: Export, to: Out) -> None:
    for result in export.of_models():
        to.write("".join(f"{line}\n" for line in summary_lines(result)))


TEXT_FORMS: Mapping[str, Callable[[Export, Out], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "latex": write_latex,
    "openmetrics": write_openmetrics,
    "ai-energy-score": write_score,
    "mlperf": write_mlperf,
}
# The forms whose rows may be long.
TABLES = frozenset({"csv", "jsonl", "parquet"})
FORMS = (*TEXT_FORMS, "parquet", "mlflow")


def write_parquet(export: Export, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[type[Cell], pa.DataType] = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
    }
    own: dict[str, type[Cell]] = {**export.labels, **FACTS, "metric": str, "unit": str, "reason": str}
    schema = pa.schema([(name, kinds[own.get(name, float)]) for name in export.names])
    rows = export.rows()
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def log_to_mlflow(export: Export, tracking_uri: str | None) -> int:
    """A run of MLflow for each row, in the experiment `llem`; how many there were.

    ResultError where MLflow is not installed, or does not take them.
    """
    if find_spec("mlflow") is None:
        raise ResultError(
            "the form mlflow needs the package mlflow or mlflow-skinny, and neither is installed",
            hint=install("mlflow"),
        )
    import mlflow
    from mlflow.exceptions import MlflowException

    count = 0
    try:
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment("llem")
        for own, result in export.items:
            for facts, metrics in _parts(result):
                row = {**own, **wide(facts, metrics)}
                name = " ".join(str(row[key]) for key in ("experiment_id", "window") if row[key])
                with mlflow.start_run(run_name=name):
                    mlflow.set_tags({key: str(row[key]) for key in (*own, *FACTS) if row[key] is not None})
                    mlflow.log_params(_parameters(result))
                    mlflow.log_metrics(
                        {key: float(row[key] or 0.0) for key in columns() if _is_number(row[key])}
                    )
                count += 1
    except MlflowException as error:
        raise ResultError(
            f"MLflow does not take the result: {error.message}",
            hint="name another place, such as: -o sqlite:///mlflow.db",
        ) from error
    return count


def _parts(result: ExperimentResult | WindowsResult | Imported) -> Iterator[tuple[Row, Metrics]]:
    if isinstance(result, Imported):
        yield result.row(), result.metrics
    else:
        yield from parts(result)


def _parameters(result: ExperimentResult | WindowsResult | Imported) -> dict[str, Any]:
    """What was asked for, beside the defaults; MLflow takes 100 at once."""
    if not isinstance(result, ExperimentResult):
        return {}
    asked = dict(leaves(identity(result.config)))
    return dict(islice(asked.items(), 100))


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _csv(rows: Iterable[Row], names: Sequence[str], to: Out) -> None:
    writer = csv.DictWriter(to, names, lineterminator="\n")
    # What can't be read at all leaves nothing behind.
    first = list(islice(rows := iter(rows), 1))
    writer.writeheader()
    writer.writerows(chain(first, rows))


def _amount(one: Estimate | None, name: str, *, modelled: bool) -> str:
    if one is None or one.value is None:
        return MISSING
    return amount(one, modelled=modelled and name.endswith("_j"))


def _family(column: str) -> tuple[str, str]:
    """The name of a column's metric, which ends in its unit, and that unit."""
    stem, end = column, ""
    for one in ("_systematic_low", "_systematic_high", "_low", "_high"):
        if column.endswith(one):
            stem, end = column.removesuffix(one), one
            break
    unit = next((suffix for suffix in _UNITS if stem.endswith(suffix)), "")
    word = _UNITS.get(unit, "")
    return f"llem_{stem.removesuffix(unit)}{end}{'_' if word else ''}{word}", word


def _name(key: str) -> str:
    """A label's name: letters, digits and underscores."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in key)


def _label_set(labels: Mapping[str, Cell]) -> str:
    def escaped(value: Cell) -> str:
        return str(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"
