"""What did each domain draw in the course of a run, and what went on meanwhile?"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import JsonValue

from llenergymeasure.energy.joules.curve import curve
from llenergymeasure.energy.recording.trace import PARQUET_NAME, read_trace
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Domain, Trace, Window
from llenergymeasure.results.models import RunWindow
from llenergymeasure.results.windows import NamedWindows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

MOST_POINTS, _LEAST_POINTS = 1_200, 20
EVENTS_NAME = "events.jsonl"
_BLOCK, _KIND = b'"block_done"', re.compile(rb'"kind":\s*"(full|prefill)"')
_WINDOW = re.compile(rb'"window":\s*\{"start_ns":\s*(\d+),\s*"end_ns":\s*(\d+)\}')
_POWER_FIELDS = ("power_instant", "power_usage", "power_average")

MarkKind: TypeAlias = Literal[
    "idle, bare",
    "idle, loaded",
    "idle, after",
    "loading",
    "warm-up",
    "silence",
    "pass",
    "pass that leads in",
    "prefill pass",
    "window",
    "throttled by heat",
    "throttled by the power limit",
    "gap in the recording",
]
_IDLE: Mapping[str, MarkKind] = {"bare": "idle, bare", "loaded": "idle, loaded", "after": "idle, after"}
Mark: TypeAlias = tuple[MarkKind, Window]


def power_over_time(
    folder: Path, marks: Sequence[Mark], *, sources: Collection[str], room: int
) -> dict[str, JsonValue]:
    """The trace in a run's folder: the mean power between samples, or where there are too many of them that
    over equal stretches, with the least and most in each. `room` is for how many points of all domains.

    `sources` are those whose energy counts; where none is given all are shown. Times are seconds from the
    first sample. ResultError where there is no trace or it is damaged.
    """
    trace = read_trace(folder / PARQUET_NAME)
    if not trace.series:
        raise ResultError("nothing was sampled in this run")
    span = Window(
        min(int(one.t_before_ns[0]) for one in trace.series.values()),
        max(int(one.t_after_ns[-1]) for one in trace.series.values()),
    )
    shown = [one for one in trace.domains if _counts(one, sources)]
    points = min(MOST_POINTS, max(_LEAST_POINTS, room // max(1, len(shown))))
    everything = [*marks, *_throttled(trace), *(("gap in the recording", gap.window) for gap in trace.gaps)]
    return {
        "seconds": round(span.duration_s, 4),
        "domains": [
            {"name": domain.name, "kind": domain.kind, "modelled": domain.model is not None, **drawn}
            for domain in shown
            if (drawn := _drawn(trace, domain, span, sources=sources, points=points)) is not None
        ],
        "marks": [
            [kind, *(round((t_ns - span.start_ns) / 1e9, 6) for t_ns in (window.start_ns, window.end_ns))]
            for kind, window in _joined(sorted(everything, key=lambda mark: mark[1].start_ns), points)
            if window.end_ns > span.start_ns and window.start_ns < span.end_ns
        ],
    }


def _joined(marks: Sequence[Mark], most: int) -> Sequence[Mark]:
    """Where there are more than `most`, windows of one kind that follow one another become one."""
    if len(marks) <= most:
        return marks
    kept: list[Mark] = []
    for kind, window in marks:
        if kept and kept[-1][0] == kind:
            kept[-1] = kind, Window(kept[-1][1].start_ns, max(window.end_ns, kept[-1][1].end_ns))
        else:
            kept.append((kind, window))
    return kept


def marks_of_run(folder: Path, measured: RunWindow | None) -> list[Mark]:
    """What a run was doing when, from its events; `measured` says which passes led in to the others."""
    blocks, event = _events(folder / EVENTS_NAME)
    found = [*_mark("loading", event.get("load")), *_mark("warm-up", event.get("warm_up", {}).get("window"))]
    for name, kind in _IDLE.items():
        found += _mark(kind, event.get("idle", {}).get(name))
    for block in event.get("blocks", ()):
        found += [*_mark("silence", block["before"]), *_mark("silence", block["after"])]
    leads = {one.start_ns for one in (() if measured is None else measured.passes) if one.lead_in}
    for of, window in blocks:
        full: MarkKind = "pass that leads in" if window.start_ns in leads else "pass"
        found.append(("prefill pass" if of == "prefill" else full, window))
    return found


def marks_of_windows(windows: Sequence[NamedWindows]) -> list[Mark]:
    return [("window", Window(at.start_ns, at.end_ns)) for one in windows for at in one.occurrences]


def _mark(kind: MarkKind, window: Mapping[str, int] | None) -> list[Mark]:
    return [] if not window else [(kind, Window(window["start_ns"], window["end_ns"]))]


def _events(path: Path) -> tuple[list[tuple[str, Window]], dict[str, Any]]:
    """The kind and window of each pass, and the last event of a run, which names all other windows.

    The lines of the passes hold every request and are long: they are searched, not parsed. Empty where they
    are not what a finished run leaves.
    """
    passes: list[tuple[str, Window]] = []
    line = b""
    try:
        with path.open("rb") as file:
            for line in file:
                if _BLOCK in line and (kind := _KIND.search(line)) is not None:
                    passes += [
                        (kind[1].decode(), Window(int(one[1]), int(one[2]))) for one in _WINDOW.finditer(line)
                    ]
        message = json.loads(line)["message"]
        return passes, dict(message) if message["say"] == "measured" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return passes, {}


def _throttled(trace: Trace) -> Iterator[Mark]:
    """When the driver's own cumulative throttling time went on, by the samples around it."""
    kinds: Mapping[str, MarkKind] = {
        "throttle_thermal": "throttled by heat",
        "throttle_power": "throttled by the power limit",
    }
    for (_, quantity), series in trace.series.items():
        if quantity not in kinds:
            continue
        rising = np.flatnonzero(np.diff(series.raw) > 0)
        for run in np.split(rising, np.flatnonzero(np.diff(rising) > 1) + 1) if rising.size else ():
            first, last = int(series.t_before_ns[run[0]]), int(series.t_after_ns[run[-1] + 1])
            yield kinds[quantity], Window(first, last)


def _drawn(
    trace: Trace, domain: Domain, span: Window, *, sources: Collection[str], points: int
) -> dict[str, JsonValue] | None:
    found = _joules(trace, domain, span, sources)
    if found is None:
        return None
    source, time, total = found
    step = np.diff(time) > 0
    keep = np.append(True, step)
    time, total = time[keep], total[keep]
    if time.size < 2:
        return None
    rates = np.diff(total) / np.diff(time)
    facts: dict[str, JsonValue] = {"source": source, "samples": int(rates.size)}
    if rates.size <= points:
        between = (time[:-1] + time[1:]) / 2
        return {
            **facts,
            "at": [round(float(one), 4) for one in between],
            "mean": [short(one) for one in rates],
        }
    edges = np.linspace(time[0], time[-1], points + 1)
    # The stretch between two samples belongs to each bin that it touches.
    first = np.clip(np.searchsorted(time, edges[:-1], side="right") - 1, 0, rates.size - 1)
    last = np.clip(np.searchsorted(time, edges[1:], side="left"), first + 1, rates.size)
    both = list(zip(first, last, strict=True))
    return {
        **facts,
        "start": round(float(time[0]), 4),
        "step": float(edges[1] - edges[0]),
        "mean": [short(one) for one in np.diff(np.interp(edges, time, total)) / np.diff(edges)],
        "low": [short(rates[a:b].min()) for a, b in both],
        "high": [short(rates[a:b].max()) for a, b in both],
    }


def _counts(domain: Domain, sources: Collection[str]) -> bool:
    return not sources or any(quantity.source in sources for quantity in domain.quantities)


def _joules(
    trace: Trace, domain: Domain, span: Window, sources: Collection[str]
) -> tuple[str, Floats, Floats] | None:
    """Cumulative joules by time, from the source that counts: its counter, else its power, else its model."""
    known = {q.name: q for q in domain.quantities if (domain.name, q.name) in trace.series}

    def curve_of(name: str) -> tuple[Floats, Floats]:
        found = curve(trace.series[domain.name, name], domain, span)
        return found.time, found.total

    if domain.model is not None:
        names = {q.unit: name for name, q in known.items()}
        if not {"s", "bytes"} <= names.keys():
            return None
        time, busy = curve_of(names["s"])
        if not time.size:
            return None
        held = np.interp(time, *curve_of(names["bytes"]))
        model = domain.model
        return known[names["s"]].source, time, busy * model.w_per_busy_vcpu + held * model.w_per_byte
    counters = [name for name, q in known.items() if q.unit == "J"]
    fields = [name for name in _POWER_FIELDS if name in known]
    for name in sorted((*counters, *fields), key=lambda name: known[name].source not in sources):
        time, total = curve_of(name)
        if time.size > 1:
            return known[name].source, time, total * domain.gain + domain.offset_w * time
    return None


def short(value: float) -> float:
    """To four figures: what a plot shows."""
    return float(f"{value:.4g}")
