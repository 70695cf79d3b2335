"""Draw the silence rule: power over time, two silences, and the two events between which a block is counted.

    python -m benchmarks.silences docs/concepts/silences.png

Power and counter are those of a simulated board; the events and the joules are what llem makes of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.boards.polled import DOMAIN, polled
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.records import Window
from llenergymeasure.simulation.sensor import COUNTER, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
IDLE_W, PREFILL_W, DECODE_W = 90.0, 520.0, 300.0
START, PASSES, PASS_S, BATCH_S = 1.0, 2, 1.5, 0.5
SILENCES = ((0.35, 1.0), (4.0, 4.75))


def main(path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    end = START + PASSES * PASS_S
    power = _power(end)
    sensor = SimulatedSensor(step_s=0.1, phase_s=0.03, fields=frozenset({COUNTER}))
    offset = 10 * S
    trace = polled(power, sensor, np.arange(0, offset + 7 * S, 5_000_000, dtype=np.int64))
    series = trace.series[DOMAIN, "energy"]
    passes = [_window(START + n * PASS_S, START + (n + 1) * PASS_S) for n in range(PASSES)]
    spent = block_energy(
        trace, DOMAIN, before=_window(*SILENCES[0]), passes=passes, after=_window(*SILENCES[1])
    )
    true_j = power.energy_j(passes[0].start_ns, passes[-1].end_ns)
    assert spent.joules is not None
    moved = np.flatnonzero(np.diff(series.raw)) + 1
    at = series.t_before_ns[moved] / S - 10
    joules = series.raw[moved] * series.quantity.scale
    first, last = int(np.flatnonzero(at <= START)[-1]), int(np.flatnonzero(at >= end + 0.15)[0])

    figure, (top, low) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=(3, 2))
    t = np.arange(0.2, 4.9, 0.002)
    top.plot(t, [power.power_w(round((x + 10) * S)) for x in t], color="#30506e", linewidth=1.2)
    for silence, name in zip(SILENCES, ("silence before", "silence after"), strict=True):
        for axes in (top, low):
            axes.axvspan(*silence, color="#e8e3d3", zorder=0)
        top.text(sum(silence) / 2, 612, name, ha="center", va="top")
    for number in range(PASSES):
        top.text(START + (number + 0.5) * PASS_S, 612, f"pass {number + 1}", ha="center", va="top")
    for edge in (START, START + PASS_S, end):
        for axes in (top, low):
            axes.axvline(edge, color="#999999", linewidth=0.8, linestyle=":")
    top.set_ylabel("power, W")
    top.set_ylim(0, 620)
    shown = (at > 0.2) & (at < 4.9)
    base = joules[shown][0]
    low.step(at[shown], joules[shown] - base, where="post", color="#30506e", linewidth=1.2)
    low.plot(at[[first, last]], joules[[first, last]] - base, "o", color="#b3261e", markersize=7)
    for event, text, side in ((first, "last event before", "left"), (last, "first event after", "right")):
        low.annotate(
            text,
            (at[event], joules[event] - base),
            xytext=(-8 if side == "left" else 8, 28 if side == "left" else -28),
            textcoords="offset points",
            ha="right" if side == "left" else "left",
            color="#b3261e",
            arrowprops={"arrowstyle": "-", "color": "#b3261e"},
        )
    low.set_ylabel("energy counter, J")
    low.set_xlabel("seconds")
    figure.suptitle(
        f"block: {spent.joules:.1f} ± {spent.half_width_j:.1f} J by the counter between the two events, "
        f"less quiet power; true: {true_j:.1f} J",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _power(end: float) -> Waveform:
    power = Waveform(IDLE_W)
    at = START
    while at < end - 1e-9:
        power.set(round((at + 10) * S), PREFILL_W)
        power.set(round((at + 0.08 + 10) * S), DECODE_W)
        at += BATCH_S
    power.set(round((end + 10) * S), IDLE_W + 6)
    return power


def _window(start: float, end: float) -> Window:
    return Window(round((start + 10) * S), round((end + 10) * S))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
