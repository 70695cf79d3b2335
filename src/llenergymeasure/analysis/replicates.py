"""What was repeated independently: several runs, a fresh process each, or the passes of a single one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.records import Measurement, Pass

# The passes of each unit of replication.
Groups: TypeAlias = Sequence[Sequence[Pass]]


def replicates(measurements: Sequence[Measurement], *, leads: int = 0) -> tuple[tuple[Pass, ...], ...]:
    """The measured passes by run where there are several, else one by one; less the first `leads` of each
    run, which led in to the others.
    """
    if len(measurements) > 1:
        return tuple(one.passes[leads:] for one in measurements)
    return tuple((one,) for one in measurements[0].passes[leads:])


def joules(energies: Sequence[RunEnergy], *, leads: int = 0) -> list[float] | None:
    """Of each unit of replication, as `replicates` has them; None where one is unknown."""
    shares = [one.shares for one in energies]
    known = [part[leads:] for part in shares if part is not None]
    if len(known) < len(shares):
        return None
    return [sum(part) for part in known] if len(known) > 1 else known[0]


def output_tokens(groups: Groups) -> list[int]:
    return [sum(one.output_tokens for one in group) for group in groups]


def total_tokens(groups: Groups) -> list[int]:
    return [sum(one.prompt_tokens + one.output_tokens for one in group) for group in groups]


def requests(groups: Groups) -> list[int]:
    return [sum(1 for one in group for _ in one.generation.answered) for group in groups]


def seconds(groups: Groups) -> list[float]:
    return [sum(one.window.duration_s for one in group) for group in groups]
