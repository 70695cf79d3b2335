"""How is a running load warmed up, and cut into windows?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from llenergymeasure.analysis.statistics import is_steady
from llenergymeasure.backends import Load, SoFar
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.protocol import WarmUpBatch
from llenergymeasure.records import Pass, WarmUp, Window

# How often the load is looked at, and how often somebody hears of it.
_LOOK_S, _LOOKS_A_NEWS = 0.25, 4
# The recorder looks closely from so long before an edge on: for longer than the slowest counter's step.
LEAD_NS = 120_000_000
# A stretch holds so many requests where it can, so that chance does not hide whether the load has settled.
_REQUESTS = 20


def warm_up(load: Load, config: ExperimentConfig, tell: Callable[[WarmUpBatch], None]) -> WarmUp:
    """Until the rate of output and the number of requests on their way settle, or the cap is reached."""
    settings = config.warmup
    least = max(settings.window, settings.min_batches)
    looks = [load.so_far()]
    start_ns = looks[0].t_ns
    stretches: list[tuple[SoFar, SoFar]] = []
    steady = False
    while not steady and (looks[-1].t_ns - start_ns) / 1e9 < settings.max_seconds:
        load.wait(start_ns + round(len(looks) * _LOOK_S * 1e9))
        looks.append(load.so_far())
        stretches = _stretches(looks, _stretch_s(looks, config), least)
        steady = len(stretches) == least and _has_settled(stretches, config)
        if len(looks) % _LOOKS_A_NEWS == 0 and stretches:
            tell(WarmUpBatch(len(looks) // _LOOKS_A_NEWS, None, _news(stretches[-1])))
    return WarmUp(
        Window(start_ns, looks[-1].t_ns),
        tuple((end.t_ns - start.t_ns) / 1e9 for start, end in stretches),
        steady,
        rates=tuple(_rate(*each) for each in stretches),
    )


def _stretch_s(looks: Sequence[SoFar], config: ExperimentConfig) -> float:
    """Two answers long, and long enough for many of them, as far as the cap leaves room for a few of it."""
    last, spent_s = looks[-1], (looks[-1].t_ns - looks[0].t_ns) / 1e9
    answer_s = last.in_flight_ns / 1e9 / max(last.ended, 1)
    wanted_s = max(2 * _LOOK_S, 2 * answer_s, _REQUESTS * spent_s / max(last.ended, 1))
    return min(wanted_s, config.warmup.max_seconds / (config.warmup.window + 1))


def _stretches(looks: Sequence[SoFar], stretch_s: float, most: int) -> list[tuple[SoFar, SoFar]]:
    """The last ones, each of so many looks; the first answers are awaited before the first."""
    step = max(1, math.ceil(stretch_s / _LOOK_S - 1e-9))
    edges = [one for one in looks[::-1][::step] if one.ended][: most + 1][::-1]
    return list(pairwise(edges))


def _has_settled(stretches: Sequence[tuple[SoFar, SoFar]], config: ExperimentConfig) -> bool:
    settings, allowed = config.warmup, config.warmup.variation
    if config.load is not None and config.load.arrivals not in {"closed", "constant"}:
        # Random arrivals vary by their own nature; those waiting at once more than those sent.
        ended = (stretches[-1][1].ended - stretches[0][0].ended) / len(stretches)
        allowed += math.sqrt(2 / max(ended, 1)) / math.sqrt(min(1.0, config.load.burstiness))
    return min(_rate(*each) for each in stretches) > 0 and all(
        is_steady([measure(*each) for each in stretches], count=settings.window, variation=allowed)
        for measure in (_rate, _waiting)
    )


def _rate(start: SoFar, end: SoFar) -> float:
    return (end.chunks - start.chunks) / ((end.t_ns - start.t_ns) / 1e9)


def _waiting(start: SoFar, end: SoFar) -> float:
    return (end.in_flight_ns - start.in_flight_ns) / (end.t_ns - start.t_ns)


def _news(stretch: tuple[SoFar, SoFar]) -> str:
    return f"{_rate(*stretch):.3g} chunks/s, {_waiting(*stretch):.3g} requests on their way"


def run_windows(
    load: Load,
    config: ExperimentConfig,
    count: int,
    *,
    before: Callable[[], None],
    edge: Callable[[], None],
    after: Callable[[], None],
) -> tuple[Pass, ...]:
    """Windows that follow one another while the load goes on, and drains once the last is over.

    `before` returns when the first may begin; `edge` hears of each further edge a moment before it, and
    `after` of the end.
    """
    before()
    first_ns, length_ns = time.monotonic_ns() + LEAD_NS, round(config.passes.seconds * 1e9)
    edges_ns = [first_ns + number * length_ns for number in range(count + 1)]
    load.cut(edges_ns)
    cpu_s = list(_cpu_at(load, edges_ns, edge))
    after()
    load.drain()
    used = [end - start for start, end in pairwise(cpu_s)]
    return tuple(
        Pass(Window(*window), 0, generation, replace(served, client_cpu_s=mine_s))
        for window, mine_s, (generation, served) in zip(pairwise(edges_ns), used, load.windows(), strict=True)
    )


def _cpu_at(load: Load, edges_ns: Sequence[int], edge: Callable[[], None]) -> Iterator[float]:
    """The CPU time of this process at each edge, when it has come."""
    for number, t_ns in enumerate(edges_ns):
        if number:
            load.wait(t_ns - LEAD_NS)
            edge()
        load.wait(t_ns)
        yield time.process_time()
