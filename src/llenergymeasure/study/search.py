"""Which value does a search try next, and did the runs there meet the objectives?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llenergymeasure.config.load import SloConfig
from llenergymeasure.records import Completion


def next_probe(met: Sequence[bool | None]) -> int | None:
    """The place of the value to try next, of values in rising order; None in `met` was not tried yet.

    The lowest, the highest, then the middle between the highest that meets and the lowest that does not. None
    once these are neighbours, the lowest does not meet or the highest does.
    """
    for end in (0, len(met) - 1):
        if met[end] is None:
            return end
        if met[end] is (end > 0):
            return None
    low, high = bracket(met)
    if low is None or high is None or high - low == 1:
        return None
    return (low + high) // 2


def bracket(met: Sequence[bool | None]) -> tuple[int | None, int | None]:
    """The places of the highest value below all that do not meet, and of the lowest that does not."""
    high = next((at for at, one in enumerate(met) if one is False), None)
    low = max((at for at, one in enumerate(met[:high]) if one), default=None)
    return low, high


def good_share(run: Path, slo: SloConfig) -> float | None:
    """Of all requests in the passes of a stored run; None where none was sent."""
    from llenergymeasure.measure.replay import read_measurements

    (seen,) = read_measurements(run.parents[1], [int(run.name)])
    count = sum(len(each.generation.completions) for each in seen.passes)
    good = sum(is_good(one, slo) for each in seen.passes for one in each.generation.completions)
    return good / count if count else None


def is_good(done: Completion, slo: SloConfig) -> bool:
    """Whether a request was answered and met all objectives, counted from when it was due."""
    if done.finish == "error":
        return False
    first_ns, due_ns = done.t_first_ns, done.t_scheduled_ns
    if slo.ttft is not None and (first_ns is None or first_ns - due_ns > slo.ttft * 1e9):
        return False
    if slo.e2e is not None and done.t_end_ns - due_ns > slo.e2e * 1e9:
        return False
    if slo.tpot is None or done.output_tokens < 2:
        return True
    return first_ns is not None and done.t_end_ns - first_ns <= slo.tpot * 1e9 * (done.output_tokens - 1)
