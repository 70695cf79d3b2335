"""What does a report say: which numbers, words and warnings, before they become a page or Markdown?

Long because each part of the page is a few lines that stand in the page's order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from llenergymeasure.analysis.cheapest import cheapest_lines
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Environment, Estimate
from llenergymeasure.records.dataset import counted
from llenergymeasure.records.figures import amount, percent, plain, scale_for
from llenergymeasure.report.gather import Place, Sources, Unlike, named, read, row_for, sources
from llenergymeasure.report.latency import distributions
from llenergymeasure.report.power import Mark, marks_of_run, marks_of_windows, power_over_time, short
from llenergymeasure.results import summary, windows_summary
from llenergymeasure.results.budget import combine_terms, halves
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.models import ExperimentResult, Percentiles, RunPart, Term
from llenergymeasure.results.study import StudyResult, StudyRow
from llenergymeasure.results.study_table import share
from llenergymeasure.results.summary import Row, is_modelled
from llenergymeasure.results.windows import WindowsResult

# More than these have their figures in the table, and no trace, distribution or budget on the page.
MOST_DETAILED = 500
# All runs of few experiments are drawn, the first of each of many.
MOST_RUNS_DRAWN = 60
_POINTS_IN_ALL, _QUANTILES_IN_ALL = 30_000, 10_000
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that every experiment has: what it is called, and which way is better."""

    key: str
    label: str
    of: Callable[[StudyRow], Estimate | None]
    energy: bool = False
    more_is_better: bool = False


def _peak(row: StudyRow) -> Estimate | None:
    return None if row.peak_bytes is None else Estimate(row.peak_bytes, "bytes", reason="one figure")


def _lag(row: StudyRow) -> Estimate | None:
    late = row.schedule_lag_p99_s
    return None if late is None else Estimate(late, "s", reason="one figure")


FIGURES = (
    Figure("energy", "Energy per output token", attrgetter("energy_per_output_token"), energy=True),
    Figure("throughput", "Output throughput", attrgetter("output_tokens_per_second"), more_is_better=True),
    Figure("ttft", "Time to first token", attrgetter("ttft_s")),
    Figure("tpot", "Time per output token", attrgetter("tpot_s")),
    Figure("prefill", "Prefill, per prompt token", attrgetter("prefill"), energy=True),
    Figure("decode", "Decode, per output token", attrgetter("decode"), energy=True),
    Figure("request", "Energy per request", attrgetter("energy_per_request"), energy=True),
    Figure("total", "Energy, total", attrgetter("energy_total"), energy=True),
    Figure("memory", "Peak memory", _peak),
    Figure("requests", "Request throughput", attrgetter("requests_per_second"), more_is_better=True),
    Figure("goodput", "Goodput", attrgetter("goodput_per_s"), more_is_better=True),
    Figure("good_request", "Energy per good request", attrgetter("energy_per_good_request"), energy=True),
    Figure("itl", "Time between tokens", attrgetter("itl_s")),
    Figure("lag", "Sent late, 99th percentile", _lag),
    Figure("accuracy", "Accuracy", attrgetter("accuracy"), more_is_better=True),
    Figure("correct", "Energy per correct answer", attrgetter("energy_per_correct_answer"), energy=True),
)


@dataclass(slots=True)
class Content:
    """`study` has a row for each experiment, of whatever it was read from; `details` are by that row (None
    where there is none), then one for each result of windows or a command.
    """

    title: str
    study: StudyResult
    words: list[str]
    alerts: list[dict[str, JsonValue]]
    environments: list[dict[str, JsonValue]]
    details: list[dict[str, JsonValue] | None]
    thinned: list[str]
    made: str


@dataclass(frozen=True, slots=True)
class _Room:
    """How much of each result the page has room for: so that one of 500 stays below 5 MB."""

    runs: int
    points: int
    quantiles: int
    explained: bool

    @classmethod
    def among(cls, results: int) -> _Room:
        count = min(max(1, results), MOST_DETAILED)
        runs = max(1, MOST_RUNS_DRAWN // count)
        quantiles = min(101, max(21, _QUANTILES_IN_ALL // count))
        return cls(runs, _POINTS_IN_ALL // count // min(runs, 3), quantiles, count <= MOST_RUNS_DRAWN)


@dataclass(slots=True)
class _Seen:
    """What is kept while one result is read after another."""

    rows: list[StudyRow] = field(default_factory=list)
    unlike: Unlike = field(default_factory=Unlike)
    details: list[dict[str, JsonValue] | None] = field(default_factory=list)
    apart: list[dict[str, JsonValue] | None] = field(default_factory=list)
    warned: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    invalid: dict[str, list[str]] = field(default_factory=dict)
    machines: dict[str, tuple[dict[str, JsonValue], list[str]]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    boundaries: Counter[str] = field(default_factory=Counter)
    heads: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    untraced: int = 0


def content(paths: Sequence[Path]) -> Content:
    """Everything of the results that the paths hold. ResultError where none of them can be read."""
    found = sources(paths)
    seen = _Seen(unread=list(found.unread))
    room = _Room.among(len(found.places))
    for place, result in read(found, seen.unread):
        if isinstance(result, WindowsResult):
            _add_windows(seen, place, result, room)
        else:
            _add(seen, place, result, room)
    if not seen.rows and not seen.apart:
        raise ResultError("; ".join(seen.unread[:3]) or "there is no result to report")
    study = _study(found, seen)
    final = {old.label: new.label for old, new in zip(seen.rows, study.rows, strict=True)}
    for labels in (*seen.invalid.values(), *seen.warned.values(), *(of for _, of in seen.machines.values())):
        labels[:] = [final.get(label, label) for label in labels]
    return Content(
        title=_title(found, seen, paths),
        study=study,
        words=list(_words(study, seen)),
        alerts=list(_alerts(found, study, seen)),
        environments=[{**facts, "of": len(of)} for facts, of in seen.machines.values()],
        details=[*seen.details, *seen.apart],
        thinned=list(_thinned(seen, room)),
        made=f"llem v{version('llenergymeasure')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _title(found: Sources, seen: _Seen, paths: Sequence[Path]) -> str:
    if found.study is not None:
        return found.study.name or f"study {found.study.identity[:12]}"
    if len(found.places) == 1 and seen.heads:
        return seen.heads[0]
    return ", ".join(path.resolve().name for path in paths)


def _study(found: Sources, seen: _Seen) -> StudyResult:
    """A study of everything, be it of one or not, so that its table and its words are those of any study."""
    if found.study is not None:
        return found.study.model_copy(update={"rows": tuple(seen.rows)})
    return StudyResult(
        name=None,
        identity="",
        finished=True,
        simulated=seen.kinds["simulated"] > 0,
        started_at="",
        ended_at=None,
        executor="",
        rows=named(seen.rows, seen.unlike.settings()),
        left_out=found.left_out,
    )


def _add(seen: _Seen, place: Place, result: ExperimentResult | None, room: _Room) -> None:
    seen.unlike.add(result)
    if result is None or place.folder is None:
        if place.row is not None:
            seen.rows.append(place.row)
            seen.details.append(None)
        return
    row = row_for(place.folder, result, place.row)
    seen.rows.append(row)
    seen.heads.append(summary.heading(result))
    seen.kinds["simulated" if result.simulated else result.energy.method or "no energy"] += 1
    seen.boundaries[result.energy.boundary or "none"] += 1
    for reason in () if result.energy.valid else result.energy.reasons:
        seen.invalid.setdefault(reason, []).append(row.label)
    _note(seen, result.environment, result.warnings, row.label)
    detailed = len(seen.rows) <= MOST_DETAILED
    seen.details.append(_detail(seen, place.folder, result, room) if detailed else None)


def _note(seen: _Seen, machine: Environment, warnings: Sequence[object], label: str) -> None:
    for one in warnings:
        code, message, remedy = (getattr(one, name) for name in ("code", "message", "remedy"))
        seen.warned.setdefault((code, message, remedy), []).append(label)
    facts = _environment(machine)
    seen.machines.setdefault(repr(facts), (facts, []))[1].append(label)


def _detail(seen: _Seen, at: Path, result: ExperimentResult, room: _Room) -> dict[str, JsonValue]:
    energy = result.energy
    costs, speed = summary.sections(result)
    found: dict[str, JsonValue] = {
        "heading": summary.heading(result),
        "started": result.started_at.utc,
        "groups": [_group("What it cost", costs), _group("How fast it was", speed)],
        "failures": [*summary.failures(result)],
        "notes": list(result.notes),
        "explanation": list(summary.explanation(result)) if room.explained else None,
        "modelled": is_modelled(energy),
        "since": "was due" if result.performance.latencies_from == "due" else "was sent",
        "latency": {
            name: _percentiles(times)
            for name, times in (
                ("ttft", result.performance.ttft_s),
                ("tpot", result.performance.tpot_s),
                ("e2e", result.performance.e2e_s),
            )
        },
        "readings": [
            {
                "domain": reading.domain,
                "host": result.environment.hostname,
                "source": reading.source,
                "method": reading.method,
                "joules": reading.energy.value,
                "text": amount(reading.energy, modelled=reading.method == "modelled"),
                "flags": list(reading.flags),
            }
            for reading in energy.readings
        ],
        "output_tokens": result.tokens.output,
        "settings": _settings(result),
        "arguments": _lines(result.session.arguments),
    }
    budget = energy.uncertainty
    cost = energy.per_output_token
    if budget is not None and cost.value is not None and budget.per_output_token:
        found["budget"] = _budget(cost.value, cost.unit, budget.per_output_token)
    folder = at if at.is_dir() else at.parent
    runs = [(run, folder / RUNS / str(run.index)) for run in result.measured]
    sources = {reading.source for reading in energy.readings}
    traces, why = _traces(runs[: room.runs], sources, room)
    found["power"] = traces
    found["runs"] = len(runs)
    if not traces:
        found["why_no_power"] = why
        seen.untraced += 1
    try:
        found["distributions"] = distributions(
            [path for _, path in runs],
            shares=room.quantiles,
            from_due=result.performance.latencies_from == "due",
        )
    except ResultError as error:
        seen.unread.append(error.message)
    return found


def _traces(
    runs: Sequence[tuple[RunPart, Path]], sources: Collection[str], room: _Room
) -> tuple[list[JsonValue], str]:
    """The power of each run that has a trace, and why the last one has none that has not."""
    traces: list[JsonValue] = []
    why = "its folder holds no trace of it"
    for run, path in runs:
        try:
            drawn = power_over_time(path, marks_of_run(path, run.window), sources=sources, room=room.points)
        except ResultError as error:
            why = error.message
            continue
        traces.append({"name": f"run {run.index}", **drawn})
    return traces, why


def _add_windows(seen: _Seen, place: Place, result: WindowsResult, room: _Room) -> None:
    label = result.experiment_id
    found: dict[str, JsonValue] = {
        "label": label,
        "heading": windows_summary.heading(result),
        "started": result.started_at.utc,
        "groups": [_group(head, rows) for head, rows in windows_summary.sections(result)],
        "notes": list(result.notes),
        "modelled": result.method in {"modelled", "mixed"},
    }
    for reason in () if result.valid else result.reasons:
        seen.invalid.setdefault(reason, []).append(label)
    seen.heads.append(windows_summary.heading(result))
    seen.kinds[result.method or "no energy"] += 1
    seen.boundaries[result.boundary or "none"] += 1
    _note(seen, result.environment, result.warnings, label)
    marks: list[Mark] = marks_of_windows(result.windows)
    at = place.folder or Path()
    try:
        used = {reading.source for reading in result.readings}
        drawn = power_over_time(at if at.is_dir() else at.parent, marks, sources=used, room=room.points)
        found["power"] = [{"name": "recording", **drawn}]
    except ResultError as error:
        found["power"], found["why_no_power"] = [], error.message
        seen.untraced += 1
    seen.apart.append(found)


def _group(title: str, rows: Sequence[Row]) -> dict[str, JsonValue]:
    return {"title": title, "rows": [[row.label, row.value, row.note, row.strong] for row in rows]}


def _percentiles(times: Percentiles) -> dict[str, JsonValue]:
    shares = (("p50", times.p50), ("p90", times.p90), ("p95", times.p95), ("p99", times.p99))
    return {name: short(one.value) for name, one in shares if one.value is not None}


def _budget(value: float, unit: str, terms: Sequence[Term]) -> dict[str, JsonValue]:
    """Of joules per output token: each source's 95 % half-widths below and above, and all together."""
    scale = scale_for(value, unit)
    size = 10.0**-scale.exponent
    rows: list[JsonValue] = []
    for term in terms:
        below, above = halves(value, term)
        rows.append(
            [
                f"{term.name}{' (part of random)' if term.within_chance else ''}",
                short(below * size),
                short(above * size),
                percent(max(below, above) / abs(value)) if value else "",
                term.kind,
                term.common,
                term.cancels_in_ratio,
            ]
        )
    whole = combine_terms(value, terms)
    share = percent(max(whole.below, whole.above) / abs(value)) if value else ""
    rows.append(["combined", short(whole.below * size), short(whole.above * size), share, "", None, None])
    return {"unit": scale.unit, "value": value * size, "terms": rows}


def _settings(result: ExperimentResult) -> list[JsonValue]:
    """What was configured otherwise than by default."""
    return _lines(result.config.model_dump(mode="json", exclude_defaults=True))


def _lines(values: Mapping[str, JsonValue]) -> list[JsonValue]:
    return [[key, _text(value)] for key, value in leaves(dict(values))]


def _text(value: JsonValue) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


_ENVIRONMENT = TypeAdapter(Environment)
# What differs from run to run of one machine.
_PASSING = {"load_1min", "swap_used_bytes"}
_PASSING_OF_GPUS = {"temperature_c", "foreign_pids", "sm_clock_mhz", "index"}


def _environment(machine: Environment) -> dict[str, JsonValue]:
    facts = _ENVIRONMENT.dump_python(machine, mode="json", exclude=_PASSING | {"gpus", "versions"})
    for key in ("memory_bytes", "memory_limit_bytes"):
        if facts.get(key) is not None:
            facts[key] = plain(facts[key], "B")
    rows = [[key.removesuffix("_bytes").replace("_", " "), _text(value)] for key, value in facts.items()]
    rows = [row for row in rows if row[1] not in {"None", ""}]
    for gpu in machine.gpus:
        parts = [gpu.name or gpu.uuid, gpu.uuid if gpu.name else None]
        parts += [f"driver {gpu.driver}" if gpu.driver else None]
        parts += [f"limit {gpu.power_limit_w:g} W" if gpu.power_limit_w is not None else None]
        rows.append([f"GPU {gpu.index}", ", ".join(part for part in parts if part)])
    rows += [[name, release] for name, release in machine.versions.items()]
    return {"host": machine.hostname, "rows": [*rows]}


def _words(study: StudyResult, seen: _Seen) -> Iterator[str]:
    """The summary in sentences."""
    rows = study.rows
    measured = [row for row in rows if row.energy_per_output_token is not None]
    if rows:
        runs = sum(row.runs for row in rows)
        lost = len(study.failed)
        failed = f"; {counted(lost, 'experiment')} with failures" if lost else ""
        yield f"{counted(len(rows), 'experiment')}, {counted(runs, 'run')}{failed}."
    if seen.apart:
        yield f"{counted(len(seen.apart), 'recording')} of a program or a command."
    yield from _of_energy(seen)
    if len(measured) == 1 and len(rows) == 1:
        for figure in FIGURES[:4]:
            found = figure.of(measured[0])
            if found is not None and found.value is not None:
                yield f"{figure.label}: {text_of(figure, measured[0])}."
        return
    # What a model of power estimates does not win over what a sensor measured.
    sensed = tuple(row for row in measured if not row.modelled)
    for line in cheapest_lines(study.model_copy(update={"rows": sensed or study.rows})):
        yield f"{line.strip()[0].upper()}{line.strip()[1:]}."
    for figure in FIGURES[1:3]:
        best = _best(figure, measured)
        if best is not None:
            word = "Highest" if figure.more_is_better else "Shortest"
            yield f"{word} {figure.label.lower()}, by its value: {best.label}, {text_of(figure, best)}."


def _of_energy(seen: _Seen) -> Iterator[str]:
    whole = sum(seen.kinds.values())
    if simulated := seen.kinds["simulated"]:
        of = "All" if simulated == whole else f"{simulated} of {whole}"
        yield f"{of} simulated: no model ran, no sensor was read."
    if estimated := seen.kinds["modelled"] + seen.kinds["mixed"]:
        of = "All energy is" if estimated == whole else f"The energy of {estimated} of {whole} is"
        yield f"{of} estimated by a model of power, not measured; ≈ marks it."
    if len(seen.boundaries) == 1 and (only := next(iter(seen.boundaries))) != "none":
        yield f"Boundary of the energy: {only}."


def _best(figure: Figure, rows: Sequence[StudyRow]) -> StudyRow | None:
    known = [(found.value, row) for row in rows if (found := figure.of(row)) and found.value is not None]
    if len(known) < 2:
        return None
    return (max if figure.more_is_better else min)(known, key=lambda pair: pair[0])[1]


def text_of(figure: Figure, row: StudyRow) -> str:
    """As every other part of llem writes it: ≈ for what is modelled, in brackets what is not valid."""
    found = figure.of(row)
    if found is None:
        return summary.MISSING
    if figure.key == "accuracy":
        return share(found)
    text = amount(found, modelled=figure.energy and row.modelled)
    return f"({text})" if figure.energy and not row.valid and found.value is not None else text


def _alerts(found: Sources, study: StudyResult, seen: _Seen) -> Iterator[dict[str, JsonValue]]:
    """The worst first: what is wrong, what is missing, what weakens numbers."""
    for reason, labels in seen.invalid.items():
        yield _alert("error", "Energy is not valid", reason, labels)
    yield from _lost(study)
    for text in seen.unread[:_MOST_SHOWN]:
        yield _alert("error", "Not read", text, [])
    if len(seen.unread) > _MOST_SHOWN:
        yield _alert("error", "Not read", f"{len(seen.unread) - _MOST_SHOWN} more files", [])
    yield from _unlike(seen)
    for (code, message, remedy), labels in seen.warned.items():
        yield _alert("warning", message, remedy, labels, code=code)
    for gap in found.left_out:
        yield _alert("note", "Not run" if gap.kind == "invalid" else "Excluded", gap.reason, [gap.label])


def _lost(study: StudyResult) -> Iterator[dict[str, JsonValue]]:
    """What failed and what did not run, the same reason once."""
    failed: dict[tuple[str, str], list[str]] = {}
    for row in study.rows:
        for one in row.failures:
            tries = f" after {one.attempts} attempts" if one.attempts > 1 else ""
            failed.setdefault((f"{one.kind}{tries}", one.message), []).append(
                f"{row.label}, run {one.repeat}"
            )
    for (kind, message), labels in failed.items():
        yield _alert("error", f"{counted(len(labels), 'run')} failed ({kind})", message, labels)
    if pending := [row.label for row in study.rows if row.outcome == "pending"]:
        yield _alert("warning", "Not run yet", counted(len(pending), "experiment"), pending)


def _unlike(seen: _Seen) -> Iterator[dict[str, JsonValue]]:
    """What makes energies incomparable."""
    sensed = {"counter": "measured", "sampled": "measured"}
    if len({sensed.get(kind, kind) for kind in seen.kinds.keys() - {"no energy"}}) > 1:
        kinds = ", ".join(f"{count} {kind}" for kind, count in seen.kinds.items())
        yield _alert("warning", "Unlike kinds of energy", f"not comparable: {kinds}", [])
    if len(seen.boundaries) > 1:
        kinds = ", ".join(f"{name} ({count})" for name, count in seen.boundaries.items())
        yield _alert("warning", "Unlike boundaries", f"what the energy includes differs: {kinds}", [])


def _alert(
    level: str, title: str, text: str, labels: Sequence[str], *, code: str = ""
) -> dict[str, JsonValue]:
    return {
        "level": level,
        "title": title,
        "text": text,
        "code": code,
        "of": list(labels[:_MOST_SHOWN]),
        "count": len(labels),
    }


def _thinned(seen: _Seen, room: _Room) -> Iterator[str]:
    """What the page leaves out of the data."""
    everything = len(seen.rows) + len(seen.apart)
    yield (
        "Power over time: where a run has more samples than the plot has points, its mean, least and most "
        "over equal stretches; the whole trace is power.parquet in the run's folder."
    )
    yield f"Latency distributions: {room.quantiles} quantiles; every request is in requests.parquet."
    if everything * 2 > MOST_RUNS_DRAWN:
        yield "Over time the first run of each experiment."
    if everything > MOST_DETAILED:
        yield (
            f"The first {MOST_DETAILED} of {everything:,} results have their details here; "
            "the others have their figures in the table."
        )
    if seen.untraced:
        yield f"{counted(seen.untraced, 'result')} came without a trace."
