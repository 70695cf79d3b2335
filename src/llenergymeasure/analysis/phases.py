"""What does a prompt token cost, and what an output token after the first?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llenergymeasure.analysis.batches import CONTINUOUS, Batch, are_continuous, batches
from llenergymeasure.analysis.estimates import half_width, scaled, too_few, total
from llenergymeasure.analysis.net import IdleLevel, net_of_idle
from llenergymeasure.analysis.replicates import replicates
from llenergymeasure.energy.joint import joint_powers
from llenergymeasure.records import Domain, Estimate, Pass, Trace, Window

PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True, slots=True)
class Phases:
    """Joules per prompt token, and per output token after a request's first: gross, and net of idle."""

    prefill: Estimate
    decode: Estimate
    net_prefill: Estimate
    net_decode: Estimate


@dataclass(frozen=True, slots=True)
class _Phase:
    windows: tuple[Window, ...]
    tokens: int

    @property
    def seconds(self) -> float:
        return math.fsum(one.duration_s for one in self.windows)


def prefill_and_decode(
    trace: Trace,
    domains: Sequence[Domain],
    passes: Sequence[Pass],
    *,
    idle: IdleLevel,
    chance: float | None,
    why_none: str,
) -> Phases:
    """Joules per prompt token, and per output token after a request's first, which its prefill makes.

    The energies of all prefill windows (a batch is sent until its first token) and all decode windows (from
    there to its last token) are estimated jointly, since each alone is too short. Missing, with the reason,
    where the windows overlap. Net is less `idle`.

    `chance` is the relative half-width that the passes' scatter leaves on their joules per token, None where
    there are too few; what the joint estimate leaves open of these very windows adds to it in quadrature.
    """
    found = _phases(batches(passes))
    if isinstance(found, str):
        none = Estimate.missing("J/token", found)
        return Phases(none, none, none, none)
    kinds = {kind: phase.windows for kind, phase in found.items()}
    spans = _spans(passes)
    readings = [joint_powers(trace, kinds, domain.name, spans=spans) for domain in domains]

    def per_token(kind: str) -> tuple[Estimate, Estimate]:
        phase = found[kind]
        if phase.tokens == 0:
            none = Estimate.missing("J/token", f"no token was made in {kind}")
            return none, none
        parts = [reading[kind] for reading in readings]
        spent = total([part.energy for part in parts], unit="J", why_none=why_none)
        gross = _with_chance(spent, chance, too_few(len(replicates(passes))))
        net = net_of_idle(gross, idle, phase.seconds, readings=parts)
        return scaled(gross, 1 / phase.tokens, "J/token"), scaled(net, 1 / phase.tokens, "J/token")

    (prefill, net_prefill), (decode, net_decode) = per_token(PREFILL), per_token(DECODE)
    return Phases(prefill, decode, net_prefill, net_decode)


def _spans(passes: Sequence[Pass]) -> list[Window]:
    """From the first pass to the last of each process: what lies between two processes is none of theirs."""
    windows: dict[int, list[Window]] = {}
    for one in passes:
        windows.setdefault(one.cycle, []).append(one.window)
    return [Window(found[0].start_ns, found[-1].end_ns) for found in windows.values()]


def _with_chance(cost: Estimate, chance: float | None, why_not: str) -> Estimate:
    width = half_width(cost)
    if cost.value is None or width is None:
        return cost
    if chance is None:
        return replace(cost, low=None, high=None, reason=why_not)
    half = math.hypot(width, chance * cost.value)
    return replace(cost, low=cost.value - half, high=cost.value + half)


def _phases(found: Sequence[Batch]) -> dict[str, _Phase] | str:
    """The windows of each kind and the tokens that were read and made in them, or why there are none."""
    known = [(batch, batch.first_ns) for batch in found if batch.first_ns is not None]
    if not known:
        return "the backend tells no first-token times"
    if are_continuous(found) or any(
        one.window.end_ns > after.window.start_ns for one, after in pairwise(found)
    ):
        return CONTINUOUS
    written = [(batch, last_ns) for batch, (_, last_ns) in known if last_ns < batch.window.end_ns]
    return {
        PREFILL: _Phase(
            tuple(Window(batch.window.start_ns, last_ns) for batch, (_, last_ns) in known),
            sum(batch.prompt_tokens for batch, _ in known),
        ),
        DECODE: _Phase(
            tuple(Window(last_ns, batch.window.end_ns) for batch, last_ns in written),
            sum(batch.decoded_tokens for batch, _ in written),
        ),
    }
