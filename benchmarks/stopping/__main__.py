"""What does it cost to know joules per output token to ± 2 %? Three rules on the same simulated devices.

    python -m benchmarks.stopping [DEVICES]

Every device runs the workload in virtual time for MOST passes, measured through its energy counter; each rule
then looks at the same passes in the same order and says when it would have stopped. A rule is honest where
its interval holds the truth (the mean over all devices of that scatter) in at least 93 % of its runs.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from llenergymeasure.analysis.joules import counted_domains, pass_joules
from llenergymeasure.analysis.statistics import relative_half_width, stein_passes, t_quantile
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.simulate import FollowedDevice
from llenergymeasure.simulation.clock import VirtualClock

TARGET = 0.02
FIRST = 5
FIXED = 30
MOST = 120
PASS_S = 2.0
# The half-width that a purely sequential rule may stop at: narrower than the target by this factor, or it
# stops on runs that look quieter than they are. The largest of 1, 0.9, 0.8 … at which it was honest here.
GUARD = 0.8

Rule = Callable[[Sequence[float]], tuple[int, float]]


def stein(costs: Sequence[float]) -> tuple[int, float]:
    """llem's two stages."""
    count = min(stein_passes(costs[:FIRST], target=TARGET, minimum=FIRST), MOST)
    return count, relative_half_width(costs[:count], first_stage=FIRST) or math.inf


def fixed(costs: Sequence[float]) -> tuple[int, float]:
    return FIXED, relative_half_width(costs[:FIXED]) or math.inf


def first_narrow(costs: Sequence[float]) -> tuple[int, float]:
    """Stop at the first pass whose interval is narrow enough: what spoils the interval."""
    return _sequential(costs, guard=1.0)


def guarded(costs: Sequence[float]) -> tuple[int, float]:
    """The same with a guard: stop at a narrower interval than is stated."""
    return _sequential(costs, guard=GUARD)


def _sequential(costs: Sequence[float], *, guard: float) -> tuple[int, float]:
    for count in range(FIRST, MOST):
        half = t_quantile(0.975, count - 1) * stdev(costs[:count]) / math.sqrt(count) / fmean(costs[:count])
        if half <= guard * TARGET:
            return count, half / guard
    return MOST, half / guard


RULES: dict[str, Rule] = {
    "llem (Stein, 5 first)": stein,
    f"fixed, {FIXED} passes": fixed,
    "first narrow interval": first_narrow,
    f"the same, guarded by {GUARD}": guarded,
}


def device_costs(scatter: float, seed: int) -> tuple[list[float], float]:
    """Joules per output token of MOST passes as the meter saw them, and mean joules of a pass."""
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 64,
            "passes": {"seconds": PASS_S},
            "simulated": {"scatter": scatter, "batch_size": 4},
        }
    )
    clock = VirtualClock()
    device = FollowedDevice(config, clock=clock)
    bench = Bench(config, load=lambda _: SimulatedBackend(clock), clock=clock, position=Position())
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(device.nvml, clock=clock)], clock=clock, directory=Path(directory))
        recorder.start(threaded=False)
        with clock.every(recorder.tick_s, recorder.poll), bench:
            ready = bench.open()
            recorder.dense(True)
            passes = []
            for number in range(1, MOST + 1):
                passes.append(bench.run_pass(number, lambda: device.enter("pass")))
                device.enter("between")
                clock.sleep(0.2)
            recorder.dense(False)
            clock.sleep(1.0)
        recorder.stop()
        trace = recorder.trace()
    joules = pass_joules(trace, counted_domains(trace.domains, config, ready.facts), passes) or []
    costs = [spent / one.generation.output_tokens for spent, one in zip(joules, passes, strict=True)]
    return costs, fmean(joules)


def main(devices: int) -> None:
    print(f"{devices} simulated devices a row, passes of {PASS_S:g} s, target ± {TARGET:.0%}\n")
    print("| scatter | rule | median passes | median joules | holds the truth | target met |")
    print("|---|---|---|---|---|---|")
    for scatter in (0.005, 0.01, 0.02, 0.05):
        seeds = random.Random(17)
        runs = [device_costs(scatter, seeds.randrange(2**32)) for _ in range(devices)]
        truth = fmean(cost for costs, _ in runs for cost in costs)
        for name, rule in RULES.items():
            stopped = [(*rule(costs), costs, joules) for costs, joules in runs]
            held = fmean(abs(fmean(costs[:n]) / truth - 1) <= half for n, half, costs, _ in stopped)
            met = fmean(half <= TARGET * 1.001 for _, half, _, _ in stopped)
            count = median(n for n, *_ in stopped)
            spent = median(n * joules for n, _, _, joules in stopped)
            print(
                f"| {scatter:.1%} | {name} | {count:g} | {spent:,.0f} | {held:.1%} | {met:.0%} |", flush=True
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
