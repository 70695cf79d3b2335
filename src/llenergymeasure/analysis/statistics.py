"""What repetition tells: intervals from independent passes, how many are needed, whether times settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev


def is_steady(durations: Sequence[float], *, count: int, variation: float) -> bool:
    """Whether the last `count` durations agree: coefficient of variation at most `variation`, and no trend.

    A trend is a least-squares slope that over the whole stretch moves the mean by more than `variation` and
    is larger than twice its standard error; chance alone rarely does both.
    """
    if len(durations) < count:
        return False
    last = list(durations[-count:])
    mean = fmean(last)
    if mean <= 0:
        return True
    if stdev(last) / mean > variation:
        return False
    middle = (count - 1) / 2
    spread = sum((at - middle) ** 2 for at in range(count))
    slope = sum((at - middle) * (value - mean) for at, value in enumerate(last)) / spread
    residual = sum((value - mean - slope * (at - middle)) ** 2 for at, value in enumerate(last))
    error = math.sqrt(residual / (count - 2) / spread)
    return not (abs(slope) * (count - 1) > variation * mean and abs(slope) > 2 * error)


@lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: int) -> float:
    """Student's t: the value that a draw with `degrees` of freedom stays below with `probability`.

    Bisection on the closed-form distribution function for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4). ValueError outside 0.5 ≤ probability < 1 or below one degree.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile for probability {probability} and {degrees} degrees of freedom")
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _t_below(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _t_below(t: float, degrees: int) -> float:
    theta = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    if degrees == 1:
        return 0.5 + theta / math.pi
    term = total = 1.0 if degrees % 2 == 0 else cosine
    for k in range(2 if degrees % 2 == 0 else 3, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if degrees % 2 == 0:
        return 0.5 + sine * total / 2
    return 0.5 + (theta + sine * total) / math.pi


def stein_passes(costs: Sequence[float], *, target: float, minimum: int) -> int:
    """How many passes the first stage asks for: max(minimum, ceil((t·s / target)²)).

    `costs` are the costs per output token of the first stage's passes; s is their standard deviation relative
    to their mean and t its 97.5 % quantile. Fixing the number after the first stage keeps the interval
    honest, as stopping at the first narrow one does not (Stein 1945).
    """
    s = stdev(costs) / fmean(costs)
    t = t_quantile(0.975, len(costs) - 1)
    return max(minimum, math.ceil((t * s / target) ** 2))


def relative_half_width(costs: Sequence[float], *, first_stage: int | None = None) -> float | None:
    """Half-width of the 95 % interval of the mean cost, relative to it; None below three passes.

    With `first_stage` the scatter is that of the first passes alone, as Stein's second stage requires.
    """
    if len(costs) < 3:
        return None
    stage = costs[:first_stage] if first_stage and first_stage >= 3 else costs
    mean = fmean(costs)
    if mean <= 0:
        return None
    return t_quantile(0.975, len(stage) - 1) * stdev(stage) / math.sqrt(len(costs)) / mean
