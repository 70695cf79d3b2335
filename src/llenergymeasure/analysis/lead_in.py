"""Does the first pass after a silence cost something else than those that follow it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from llenergymeasure.analysis.statistics import t_quantile

# Less than this of a pass's cost is not worth a pass.
NEGLIGIBLE = 0.02
# Rarely by accident, since a pass that is left out makes the interval wider.
SURE = 0.995


def leads_in(costs: Sequence[Sequence[float]], *, at_least: float = 0.0) -> bool:
    """Whether the first pass of each run is a lead-in. `costs` are those of each run's passes;
    less than `at_least` (relative) is left open by what a pass's share is.

    A silence may let clocks drop and turbo budgets refill. The first pass is held against the mean of the
    others: over runs where there are three or more, by Student's t; within a single run by the scatter of
    its other passes. At least three passes a run; two runs show nothing.
    """
    if not costs or min(len(run) for run in costs) < 3 or fmean(costs[0]) <= 0:
        return False
    apart = [run[0] / fmean(run[1:]) - 1 for run in costs]
    mean, count = fmean(apart), len(costs)
    if abs(mean) <= max(NEGLIGIBLE, at_least):
        return False
    if count >= 3:
        return abs(mean) > t_quantile(SURE, count - 1) * stdev(apart) / math.sqrt(count)
    if count == 2:
        return False
    others = costs[0][1:]
    spread = stdev(others) / fmean(others) * math.sqrt(1 + 1 / len(others))
    return abs(mean) > t_quantile(SURE, len(others) - 1) * spread
