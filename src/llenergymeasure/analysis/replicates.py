"""What was repeated independently: the passes of one process, or several processes?"""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.records import Pass


def replicates(passes: Sequence[Pass]) -> tuple[tuple[Pass, ...], ...]:
    """Passes grouped into the unit of replication: by cycle where there are several, else one by one."""
    cycles = dict.fromkeys(one.cycle for one in passes)
    if len(cycles) < 2:
        return tuple((one,) for one in passes)
    return tuple(tuple(one for one in passes if one.cycle == cycle) for cycle in cycles)


def per_replicate(passes: Sequence[Pass], values: Sequence[float]) -> list[float]:
    """The sums over each replicate's passes of `values`, which has one for every pass."""
    sums: dict[object, float] = {}
    several = len({one.cycle for one in passes}) > 1
    for number, (one, value) in enumerate(zip(passes, values, strict=True)):
        unit = one.cycle if several else number
        sums[unit] = sums.get(unit, 0.0) + value
    return list(sums.values())


def output_tokens(passes: Sequence[Pass]) -> list[int]:
    return [one.generation.output_tokens for one in passes]


def total_tokens(passes: Sequence[Pass]) -> list[int]:
    return [one.generation.prompt_tokens + one.generation.output_tokens for one in passes]


def requests(passes: Sequence[Pass]) -> list[int]:
    return [len(one.generation.completions) for one in passes]


def seconds(passes: Sequence[Pass]) -> list[float]:
    return [one.window.duration_s for one in passes]
