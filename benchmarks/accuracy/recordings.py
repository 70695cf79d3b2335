"""How far is llem off on recordings of real sensors beside an external meter?

python -m benchmarks.accuracy.recordings
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.table import Row, render
from llenergymeasure.energy.joules.curve import most_lag_s
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.records import Domain, Quantity, Series, Trace, Window

Floats: TypeAlias = NDArray[np.float64]

S = 1_000_000_000
# Times of the recordings begin a little below 0.
_ORIGIN_NS = 10 * S
NAMES = ("a100-step", "a100-square", "rtx3090-step", "rtx4090-step")
# When the load of a step recording began and ended.
EDGES_S = (1.05, 7.02)
SECTION = "Recorded sensors beside an external meter"
SQUARE_EDGES_S = (1.05, 9.02)
# Where power is steady before the load, and in it.
PLATEAUS_S = ((0.0, 0.95), (2.5, 6.5))
# How long a silence is beyond what the field takes to forget the load.
QUIET_S = 0.5
# What is asked of fields that average, and of others.
LIMITS = {True: 0.03, False: 0.01}


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One power field of one board, and what the meter says that was drawn in truth."""

    name: str
    field: str
    series: Series
    meter_s: Floats
    meter_j: Floats

    def true_j(self, window: Window) -> float:
        ends = (np.array([window.start_ns, window.end_ns]) - _ORIGIN_NS) * 1e-9
        return float(np.diff(np.interp(ends, self.meter_s, self.meter_j))[0])

    @property
    def edges_ns(self) -> tuple[int, ...]:
        return tuple(_ORIGIN_NS + round(edge * S) for edge in EDGES_S if "step" in self.name)

    def watts(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Mean power between two moments, as the field shows it and in truth."""
        window = Window(_ns(start_s), _ns(end_s))
        inside = (self.series.t_before_ns >= window.start_ns) & (self.series.t_after_ns <= window.end_ns)
        shown = float(self.series.raw[inside].mean()) * self.series.quantity.scale
        return shown, self.true_j(window) / window.duration_s


def folder() -> Path | None:
    """Where the recordings are: LLEM_POWER_RECORDINGS, else beside the checkout; None where they are not."""
    named = os.environ.get("LLEM_POWER_RECORDINGS")
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "power-recordings"
    place = Path(named) if named else beside
    return place if (place / f"{NAMES[0]}.meter.csv.gz").is_file() else None


def recordings(place: Path) -> Iterator[Recording]:
    for name in NAMES:
        meter, shown = (_columns(place / f"{name}.{part}.csv.gz") for part in ("meter", "smi"))
        period_s = float(np.median(np.diff(meter["t_s"])))
        ends_s = np.concatenate(([meter["t_s"][0] - period_s / 2], meter["t_s"] + period_s / 2))
        joules = np.concatenate(([0.0], np.cumsum(meter["power_w"]) * period_s))
        at_ns = np.asarray(np.round(shown["t_s"] * S), dtype=np.int64) + _ORIGIN_NS
        for column in shown:
            if column.startswith("power"):
                field = column.removesuffix("_w")
                # nvidia-smi's names say the same as the driver's fields.
                shown_by = {"power_draw": "power_usage"}.get(field, field.replace("power_draw", "power"))
                quantity = Quantity(
                    shown_by,
                    f"nvidia-smi.{field}",
                    "W",
                    1e-3,
                    step_ns=S // 10,
                    window_ns=round(_window_s(name, field) * S),
                )
                raw = np.asarray(np.round(shown[column] * 1000), dtype=np.int64)
                yield Recording(name, field, Series(quantity, at_ns, at_ns, raw), ends_s, joules)


def _columns(path: Path) -> dict[str, Floats]:
    with gzip.open(path, "rt", newline="") as file:
        head, *lines = list(csv.reader(file))
    table = np.array([[float(cell) for cell in line] for line in lines])
    return dict(zip(head, table.T, strict=True))


def calibrated(recording: Recording, plateaus: Recording) -> Domain:
    """The board with the gain and offset that its readings on two plateaus of `plateaus` show."""
    (low, true_low), (high, true_high) = (plateaus.watts(*plateau) for plateau in PLATEAUS_S)
    gain = (true_high - true_low) / (high - low)
    offset_w = true_low - gain * low
    return Domain("gpu:0", "gpu", (recording.series.quantity,), gain=gain, offset_w=offset_w)


def rows() -> list[Row]:
    """A block from edge to edge on each field; a row that says why where there are no recordings."""
    place = folder()
    if place is None:
        return [Row(SECTION, "recordings", "llem", 0, note="set LLEM_POWER_RECORDINGS to their folder")]
    found = list(recordings(place))
    return [_row(recording, found) for recording in found]


def _row(recording: Recording, others: Sequence[Recording]) -> Row:
    # A square wave has no plateaus of its own; the same board under a step has.
    steps = recording.name.replace("square", "step")
    domain = calibrated(
        recording, next(one for one in others if (one.name, one.field) == (steps, recording.field))
    )
    trace = Trace((domain,), {(domain.name, recording.series.quantity.name): recording.series})
    edges = EDGES_S if "step" in recording.name else SQUARE_EDGES_S
    block = Window(_ns(edges[0]), _ns(edges[1]))
    silence_s = most_lag_s(recording.series.quantity) + QUIET_S
    # Nothing ran before the recording began.
    before = Window(_ns(edges[0] - 3.0), block.start_ns)
    after = Window(block.end_ns, _ns(edges[1] + silence_s))
    spent = block_energy(trace, domain.name, before=before, passes=[block], after=after)
    true_j = recording.true_j(block)
    error = (spent.joules or 0.0) / true_j - 1
    averages = _window_s(recording.name, recording.field) == 1.0
    limit = None if "square" in recording.name else LIMITS[averages]
    held = abs(error) * true_j <= spent.half_width_j
    target = f"worst ≤ {100 * limit:g} %, held" if limit else "held"
    return Row(
        SECTION,
        f"{recording.name}, {recording.field}, {block.duration_s:.1f} s, silence after {silence_s:.1f} s",
        "llem",
        1,
        mean=100 * error,
        worst=100 * abs(error),
        covered=float(held),
        target=target,
        met=held and (limit is None or abs(error) <= limit),
        note=f"half-width {100 * spent.half_width_j / true_j:.2g} %: "
        + ", ".join(f"{term.name} {100 * term.half_width_j / true_j:.2g}" for term in spent.terms),
    )


def _window_s(name: str, field: str) -> float:
    """What the field averages over on that board under that driver (README of the recordings)."""
    if field == "power_draw_average" or (name, field) == ("rtx3090-step", "power_draw"):
        return 1.0
    return 0.025 if name.startswith("a100") else 0.1


def _ns(t: float) -> int:
    return _ORIGIN_NS + round(t * S)


if __name__ == "__main__":
    print(render(rows()))
