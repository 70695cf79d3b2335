"""Which value does a search try next, and did the runs there meet the objectives?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


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


def good_share(run: Path) -> float | None:
    """Which part of all requests in the passes of a stored run was good; None where none was sent."""
    from llenergymeasure.analysis.latency import good_requests
    from llenergymeasure.measure.replay import read_measurements

    (seen,) = read_measurements(run.parents[1], [int(run.name)])
    sent = sum(len(one.generation.completions) for one in seen.passes)
    (good,) = good_requests([seen.passes], seen.config)
    return good / sent if sent else None
