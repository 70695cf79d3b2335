"""How far is llem off on recordings of real sensors beside an external meter?

python -m benchmarks.accuracy.recordings
"""

from __future__ import annotations

import csv
import gzip
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.table import Row, render
from llenergymeasure.energy.level import hold, power_between
from llenergymeasure.energy.sensor import Sensor, characterise
from llenergymeasure.records import Quantity, Series, Window

Floats: TypeAlias = NDArray[np.float64]

S = 1_000_000_000
# Times of the recordings begin a little below 0.
_ORIGIN_NS = 10 * S
NAMES = ("a100-step", "a100-square", "rtx3090-step", "rtx4090-step")
# When the load of a step recording began and ended.
EDGES_S = (1.05, 7.02)
SECTION = "Recorded sensors beside an external meter"
# What is asked of the field that averages, by seconds of a window.
LIMITS = {1.0: 0.035, 5.0: 0.015}
# Where two figures are taken to be no worse than each other.
_TIE = 1.02


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

    def sensor(self) -> Sensor | None:
        """As a run finds it out: from the steps of its own load, whose times it knows."""
        return characterise(self.series, self.edges_ns)

    def windows(self, seconds: float, count: int) -> list[Window]:
        draw = np.random.default_rng(1)
        starts = draw.uniform(0.3, float(self.meter_s[-1]) - seconds - 0.3, count)
        begins = [_ORIGIN_NS + round(float(start) * S) for start in starts]
        return [Window(begin, begin + round(seconds * S)) for begin in begins]


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
                quantity = Quantity(field.replace("power_draw", "power"), f"nvidia-smi.{field}", "W", 1e-3)
                raw = np.asarray(np.round(shown[column] * 1000), dtype=np.int64)
                yield Recording(name, field, Series(quantity, at_ns, at_ns, raw), ends_s, joules)


def _columns(path: Path) -> dict[str, Floats]:
    with gzip.open(path, "rt", newline="") as file:
        head, *lines = list(csv.reader(file))
    table = np.array([[float(cell) for cell in line] for line in lines])
    return dict(zip(head, table.T, strict=True))


def errors(
    recording: Recording, seconds: float, integral: Callable[[Window], float | None], *, count: int = 600
) -> list[float]:
    """Relative errors over random windows, the board's gain and offset fitted and taken out."""
    windows = recording.windows(seconds, count)
    true = np.array([recording.true_j(window) for window in windows])
    found = np.array([integral(window) or 0.0 for window in windows])
    design = np.column_stack((found, np.full(count, seconds)))
    fit = np.linalg.lstsq(design / true[:, None], np.ones(count), rcond=None)[0]
    return [float(error) for error in design @ fit / true - 1]


def rows() -> list[Row]:
    """600 random windows of each field, beside sample-and-hold; a row that says why where there are none."""
    place = folder()
    if place is None:
        return [Row(SECTION, "recordings", "llem", 0, note="set LLEM_POWER_RECORDINGS to their folder")]
    return [row for recording in recordings(place) for row in _rows(recording)]


def _rows(recording: Recording) -> Iterator[Row]:
    sensor = recording.sensor()
    averages = sensor is not None and sensor.kind == "average"
    for seconds, limit in LIMITS.items():
        ours = errors(recording, seconds, lambda w: power_between(recording.series, w, sensor).integral)
        held = errors(recording, seconds, lambda w: hold(recording.series, w).integral)
        sd, sd_held = statistics.stdev(ours), statistics.stdev(held)
        yield Row(
            SECTION,
            f"{recording.name}, {recording.field}, {seconds:.0f} s",
            "llem",
            len(ours),
            mean=100 * statistics.fmean(ours),
            sd=100 * sd,
            worst=100 * max(map(abs, ours)),
            target=f"sd ≤ {100 * limit:g} %" if averages else "sd no worse than sample-and-hold",
            met=sd <= limit if averages else sd <= _TIE * sd_held,
            note=f"{'not seen' if sensor is None else sensor.kind}; sample-and-hold {100 * sd_held:.2f} %",
        )


if __name__ == "__main__":
    print(render(rows()))
