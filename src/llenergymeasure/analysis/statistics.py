"""What follows from repetition: intervals from independent passes, their number, whether times settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

ENOUGH_FOR_BATCHES = 30


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


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: float) -> float:
    """Student's t: the value that a draw with `degrees` of freedom stays below with `probability`.

    The degrees need not be whole, as those of Welch and Satterthwaite are not. Newton's steps from 0: the
    distribution function is concave above 0, so that they never pass the quantile. From a million degrees on
    the first term of its expansion in 1 / degrees is exact to 12 digits (Abramowitz and Stegun, 26.7.5).
    ValueError outside 0.5 ≤ probability < 1 or below one degree.
    """
    if not 0.5 <= probability < 1 or not degrees >= 1:
        raise ValueError(f"no t quantile for probability {probability} and {degrees} degrees of freedom")
    if degrees >= 1e6:
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * degrees)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    t = 0.0
    for _ in range(200):
        step = (probability - 1 + t_tail(t, degrees)) / (
            scale * (1 + t * t / degrees) ** (-(degrees + 1) / 2)
        )
        t += max(0.0, step)
        if step <= 1e-14 * t:
            break
    return t


def t_tail(t: float, degrees: float) -> float:
    """The chance that a draw of Student's t is above `t`, which is 0 or more."""
    return _beta_share(degrees / (degrees + t * t), degrees / 2) / 2


def two_sided(t: float, degrees: float) -> float:
    """The chance that a draw of Student's t is as far from 0 as `t`, on either side."""
    if degrees >= 1e6:
        return 2 * (1 - NormalDist().cdf(abs(t)))
    return 2 * t_tail(abs(t), degrees)


# The weight of the mixture below. `python -m benchmarks.telling` shows after how many blocks a
# change is found with it.
MIXTURE = 0.25


def anytime_quantile(chance: float, count: int) -> float:
    """What replaces Student's t where one looks after every value and stops as one likes.

    The mean of `count` values ± this times their standard error holds the true mean at all looks at once
    with probability 1 − `chance` at least, for normal values (the mixture of t-tests over effect sizes of
    Lindon, Ham, Tingley and Bojinov 2022; Wang and Ramdas 2024). Infinite while too few values say nothing.
    """
    if count < 2:
        return math.inf
    shrunk, degrees = MIXTURE / (MIXTURE + count), count - 1
    limit = (chance * math.sqrt(shrunk)) ** (-2 / (degrees + 1))
    if limit * shrunk >= 1:
        return math.inf
    return math.sqrt(degrees * (limit - 1) / (1 - limit * shrunk))


def holm(chances: Sequence[float], *, alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected, so that one false rejection among all has chance `alpha` at
    most, whatever they have in common (Holm 1979).
    """
    rejected = [False] * len(chances)
    for number, at in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[at] > alpha / (len(chances) - number):
            break
        rejected[at] = True
    return rejected


def t_half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of independent values, of which there are two or more."""
    return t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def _beta_share(x: float, a: float, b: float = 0.5) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction 1 / (1 + d1 / (1 + d2 / ...)) from its head on (Lentz's method).
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for part in (even, odd):
            d = 1 / (1 + part * d)
            c = 1 + part / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def stein_count(costs: Sequence[float], *, target: float, minimum: int) -> int:
    """How many repetitions the first stage asks for: max(minimum, ceil((t·s / target)²)).

    `costs` are the costs per output token of the first stage's passes or runs; s is their standard deviation
    relative to their mean and t its 97.5 % quantile. Fixing the number after the first stage keeps the
    interval honest, as stopping at the first narrow one does not (Stein 1945). Costs of 0 have no
    relative scatter: `minimum`. ValueError for fewer than two costs, and for one that is not finite.
    """
    _require_finite(costs)
    if len(costs) < 2:
        raise ValueError(f"a first stage takes at least 2 repetitions, and has {len(costs)}")
    if fmean(costs) <= 0:
        return minimum
    s = stdev(costs) / fmean(costs)
    t = t_quantile(0.975, len(costs) - 1)
    return max(minimum, math.ceil((t * s / target) ** 2))


def relative_half_width(costs: Sequence[float], *, first_stage: int | None = None) -> float | None:
    """Half-width of the 95 % interval of the mean cost, relative to it; None below three passes.

    Student's t over passes. With `first_stage` the scatter is that of the first passes alone, as Stein's
    second stage requires. From 30 passes on, correlated ones are taken together in a few long batches, whose
    means are nearly independent: five, three or two, the fewer the more neighbours agree. Never narrower than
    t over single passes. Fewer correlated passes get t all the same: then the interval is a lower bound.
    ValueError for a cost that is not finite.
    """
    _require_finite(costs)
    if len(costs) < 3 or fmean(costs) <= 0:
        return None
    stage = costs[:first_stage] if first_stage and first_stage >= 3 else costs
    if fmean(stage) <= 0:
        return None
    half = t_quantile(0.975, len(stage) - 1) * stdev(stage) / fmean(stage) / math.sqrt(len(costs))
    if len(costs) >= ENOUGH_FOR_BATCHES and correlated(costs):
        half = max(half, max(t_half_width(costs), _batched_half_width(costs)) / fmean(costs))
    return half


def _require_finite(costs: Sequence[float]) -> None:
    if odd := [cost for cost in costs if not math.isfinite(cost)]:
        raise ValueError(f"the cost of a pass is a finite number, and one is {odd[0]}")


def correlated(values: Sequence[float]) -> bool:
    """Whether passes that follow one another resemble each other more than random scatter explains.

    The lag-1 autocorrelation of n independent values has mean −1/n and variance (n − 2) / (n² − 1) (from von
    Neumann's ratio). At one standard deviation above (1.28 below 20 values, which show little) one run in six
    (in ten) of independent passes is called correlated; missing a real correlation costs more, since the
    interval is then too narrow. Fewer than 4 values show nothing, nor do values that are equal but for
    rounding.
    """
    count = len(values)
    if count < 4 or (spread := _spread(values)) <= (1e-9 * fmean(values)) ** 2 * count:
        return False
    sigma = math.sqrt((count - 2) / (count * count - 1))
    return _lag_1(values, spread) + 1 / count > (1.0 if count >= 20 else 1.28) * sigma


def drift(costs: Sequence[Sequence[float]]) -> float | None:
    """How much the cost moves from the first pass to the last, relative to its mean; None where that is no
    more than chance.

    `costs` are those of each run's passes, each relative to its run's mean. Two tests over all runs, each at
    2.5 %: the slope of a least-squares line through cost by position (Student's t), and the last pass against
    the first (the same, over runs, from three on). A slope sees a slow move, the ends a short one.
    """
    runs = [[cost / fmean(run) for cost in run] for run in costs if len(run) >= 3 and fmean(run) > 0]
    if not runs or (len(runs) == 1 and len(runs[0]) < 4):
        return None
    points = [(at - (len(run) - 1) / 2, cost - 1) for run in runs for at, cost in enumerate(run)]
    spread = sum(at * at for at, _ in points)
    slope = sum(at * cost for at, cost in points) / spread
    degrees = len(points) - len(runs) - 1
    residual = sum((cost - slope * at) ** 2 for at, cost in points)
    error = math.sqrt(residual / degrees / spread) if degrees > 0 else math.inf
    moved = slope * fmean(len(run) - 1 for run in runs)
    if abs(slope) > t_quantile(0.9875, max(degrees, 1)) * error and abs(moved) > 1e-9:
        return moved
    ends = [run[-1] - run[0] for run in runs]
    if len(ends) >= 3:
        mean, scatter = fmean(ends), stdev(ends) / math.sqrt(len(ends))
        if abs(mean) > t_quantile(0.9875, len(ends) - 1) * scatter and abs(mean) > 1e-9:
            return mean
    return None


def _batched_half_width(values: Sequence[float]) -> float:
    count = len(values)
    raw = _lag_1(values, _spread(values))
    # The estimate is too low by about (1 + 3r) / n (Kendall 1954).
    correlation = raw + (1 + 3 * raw) / count
    batches = 5 if correlation < 0.25 else 3 if correlation < 0.5 else 2
    size = count // batches
    last = values[count - batches * size :]
    means = [fmean(last[at * size : (at + 1) * size]) for at in range(batches)]
    return t_half_width(means)


def _spread(values: Sequence[float]) -> float:
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values)


def _lag_1(values: Sequence[float], spread: float) -> float:
    mean = fmean(values)
    return sum((one - mean) * (next_ - mean) for one, next_ in pairwise(values)) / spread
