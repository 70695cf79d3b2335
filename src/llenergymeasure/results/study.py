"""What a study's file holds: a row per experiment with what a table needs, and what is missing.

History of the schema: 1, the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from llenergymeasure.config.load import LoadConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Estimate, WarningCode
from llenergymeasure.results import store
from llenergymeasure.results.folder import replace_text
from llenergymeasure.results.models import Count, ExperimentResult, Part, RunFigures, Stored
from llenergymeasure.results.store import RESULT_FILE

STUDY_FILE = "study.json"
STUDY_SCHEMA_VERSION = "1"

Outcome: TypeAlias = Literal["done", "partial", "failed", "pending"]


class StudyFailure(Part):
    """A run that was not measured, the last of its attempts."""

    repeat: int
    attempts: int
    kind: str
    message: str


class StudyRow(Part):
    """One experiment. `varied` are the settings in which the experiments differ; `folder` holds its
    result.json, relative to the study's folder. `partial`: some of its repeats are missing. `place` is where
    it was measured, in a study whose experiments were measured in unlike places.

    `figures` are what each run gave alone; `numbers` are those runs, and `servers` which server answered
    each, where that is known. Requests per second, joules per request and what follows are of experiments
    with a load. `good` is the share of each run's requests that met the objectives of a search.
    """

    label: str
    names: tuple[str, ...]
    hash: str
    varied: dict[str, JsonValue]
    outcome: Outcome
    folder: str | None
    place: str | None = None
    runs: Count
    planned: Count
    failures: tuple[StudyFailure, ...] = ()
    energy_per_output_token: Estimate | None = None
    energy_per_request: Estimate | None = None
    prefill: Estimate | None = None
    decode: Estimate | None = None
    energy_total: Estimate | None = None
    output_tokens_per_second: Estimate | None = None
    ttft_s: Estimate | None = None
    tpot_s: Estimate | None = None
    peak_bytes: int | None = None
    accuracy: Estimate | None = None
    energy_per_correct_answer: Estimate | None = None
    load: str | None = None
    requests_per_second: Estimate | None = None
    goodput_per_s: Estimate | None = None
    energy_per_good_request: Estimate | None = None
    itl_s: Estimate | None = None
    schedule_lag_p99_s: float | None = None
    modelled: bool = False
    valid: bool = True
    warnings: tuple[WarningCode, ...] = ()
    figures: tuple[RunFigures, ...] = ()
    numbers: tuple[Count, ...] = ()
    servers: tuple[str | None, ...] = ()
    good: tuple[float | None, ...] = ()


class StudySearch(Part):
    """The highest value of `over` at which `share` of the requests of every repeat met the objectives, in
    seconds: `met`, None where the lowest one that was tried did not. `not_met` is the next one above, None
    where the highest met. `label` is what differs from other searches; a search that is not `finished` lies
    between the two. `servers` answered the runs, as far as that is known.
    """

    label: str
    over: str
    share: float
    objectives: dict[str, float]
    met: float | None
    not_met: float | None
    probes: Count
    finished: bool
    servers: Count = 0


class StudyGap(Part):
    """A point that did not run: excluded by a rule, or not a valid experiment."""

    label: str
    kind: Literal["excluded", "invalid"]
    reason: str


class StudyResult(Stored):
    """All experiments of a study, in the order of its file, and the points that it left out."""

    schema_version: Literal["1"] = "1"
    kind: Literal["study"] = "study"
    llem: str | None = Field(default=None, description="the version that wrote it")
    name: str | None
    identity: str
    finished: bool
    simulated: bool
    started_at: str
    ended_at: str | None
    executor: str
    rows: tuple[StudyRow, ...]
    left_out: tuple[StudyGap, ...]
    searches: tuple[StudySearch, ...] = ()

    @property
    def failed(self) -> tuple[StudyRow, ...]:
        """Those with a run that failed; one whose budget left no room for all repeats is not among them."""
        return tuple(row for row in self.rows if row.failures)

    @classmethod
    def load(cls, path: str | Path) -> StudyResult:
        """Read a `study.json`, or the folder that holds one. ResultError says what is wrong with it."""
        file = Path(path)
        file = file / STUDY_FILE if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ResultError(f"{file} can't be read: {getattr(error, 'strerror', None) or error}") from error
        data = store.parse(text, file)
        if not isinstance(data, dict) or "schema_version" not in data:
            raise ResultError(f"{file} is not a study's result")
        store.check_version(data, file, newest=STUDY_SCHEMA_VERSION)
        return store.validated(cls, text, file, data)

    def write(self, folder: Path) -> Path:
        """`study.json` in the study's folder, whole or as it was. ResultError where it can't be written."""
        final = folder / STUDY_FILE
        try:
            replace_text(final, self.model_dump_json(indent=1))
        except OSError as error:
            raise ResultError(
                f"{final} can't be written: {error.strerror}", hint="free space on that disk"
            ) from error
        return final

    def __repr__(self) -> str:
        return f"<StudyResult {self.name or self.identity[:12]}: {len(self.rows)} experiments>"

    def __str__(self) -> str:
        from llenergymeasure.results.study_table import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from llenergymeasure.results.study_table import as_html

        return as_html(self)


class _Read(BaseModel):
    """A part of a result, without what a table has no use for: whole results take minutes where there are
    thousands.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _Asked(_Read):
    load: LoadConfig | None = None


class _Late(_Read):
    schedule_lag_p99_s: float | None = None


class _Cost(_Read):
    method: str | None
    valid: bool
    total: Estimate
    per_output_token: Estimate
    per_request: Estimate
    per_good_request: Estimate | None = None
    per_correct_answer: Estimate | None = None
    prefill: Estimate
    decode: Estimate


class _Quality(_Read):
    accuracy: Estimate


class _Latency(_Read):
    p50: Estimate


class _Speed(_Read):
    output_tokens_per_second: Estimate
    requests_per_second: Estimate
    goodput_per_s: Estimate | None = None
    ttft_s: _Latency
    tpot_s: _Latency
    itl_s: _Latency | None = None


class _Peak(_Read):
    peak_bytes: int | None


class _Run(_Read):
    index: int
    outcome: str
    place: str | None = None
    server: str | None = None
    figures: RunFigures | None = None


class _Code(_Read):
    code: WarningCode


class ResultHead(_Read):
    """What a row needs of a `result.json`."""

    schema_version: Literal["2"]
    simulated: bool
    config: _Asked
    overhead: _Late
    runs: tuple[_Run, ...]
    energy: _Cost
    performance: _Speed
    quality: _Quality | None = None
    memory: _Peak
    warnings: tuple[_Code, ...]

    @property
    def measured(self) -> list[_Run]:
        return [run for run in self.runs if run.outcome == "measured"]

    @classmethod
    def read(cls, folder: Path) -> ResultHead | None:
        """None where the folder has no result that this version wrote."""
        try:
            return cls.model_validate_json((folder / RESULT_FILE).read_bytes(), strict=True)
        except (OSError, ValidationError):
            return None


def row_of(result: ResultHead | ExperimentResult) -> dict[str, object]:
    """The figures of a row."""
    energy, speed = result.energy, result.performance
    alone = [(run, run.figures) for run in result.measured if run.figures is not None]
    return {
        "runs": len(result.measured),
        "energy_per_output_token": energy.per_output_token,
        "energy_per_request": energy.per_request,
        "prefill": energy.prefill,
        "decode": energy.decode,
        "energy_total": energy.total,
        "output_tokens_per_second": speed.output_tokens_per_second,
        "ttft_s": speed.ttft_s.p50,
        "tpot_s": speed.tpot_s.p50,
        "peak_bytes": result.memory.peak_bytes,
        "accuracy": None if result.quality is None else result.quality.accuracy,
        "energy_per_correct_answer": energy.per_correct_answer,
        **({} if result.config.load is None else _under_load(result, result.config.load)),
        "modelled": energy.method in {"modelled", "mixed"},
        "valid": energy.valid,
        "warnings": tuple(dict.fromkeys(one.code for one in result.warnings)),
        "place": " + ".join(sorted({run.place for run in result.measured if run.place is not None})) or None,
        "figures": tuple(figures for _, figures in alone),
        "numbers": tuple(run.index for run, _ in alone),
        "servers": tuple(run.server for run, _ in alone),
    }


def _under_load(result: ResultHead | ExperimentResult, load: LoadConfig) -> dict[str, object]:
    speed = result.performance
    return {
        "load": load.in_words,
        "requests_per_second": speed.requests_per_second,
        "goodput_per_s": speed.goodput_per_s,
        "energy_per_good_request": result.energy.per_good_request,
        "itl_s": None if speed.itl_s is None else speed.itl_s.p50,
        "schedule_lag_p99_s": result.overhead.schedule_lag_p99_s,
    }


SORTS: Mapping[str, Callable[[StudyRow], float | None]] = {
    "energy": lambda row: _value(row.energy_per_output_token),
    "throughput": lambda row: None if (found := _value(row.output_tokens_per_second)) is None else -found,
    "ttft": lambda row: _value(row.ttft_s),
    "tpot": lambda row: _value(row.tpot_s),
    "memory": lambda row: row.peak_bytes,
}


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def in_order(rows: tuple[StudyRow, ...], key: str | None) -> tuple[StudyRow, ...]:
    """By one of SORTS, the best first and what is unknown last; as they are without a key."""
    if key is None:
        return rows
    by = SORTS[key]

    def rank(row: StudyRow) -> tuple[bool, float]:
        value = by(row)
        return value is None, value or 0.0

    return tuple(sorted(rows, key=rank))
