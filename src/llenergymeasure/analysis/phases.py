"""What does a prompt token cost, and what an output token after the first?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from llenergymeasure.analysis.estimates import few_passes, half_width, scaled, total
from llenergymeasure.analysis.replicates import replicates
from llenergymeasure.energy.joint import joint_powers
from llenergymeasure.records import Completion, Domain, Estimate, Pass, Trace, Window

PREFILL, DECODE = "prefill", "decode"


def prefill_and_decode(
    trace: Trace,
    domains: Sequence[Domain],
    passes: Sequence[Pass],
    *,
    chance: float | None,
    why_none: str,
) -> tuple[Estimate, Estimate]:
    """Joules per prompt token, and per output token after a request's first, which its prefill makes.

    The energies of all prefill windows (a batch is sent until its first token) and all decode windows (from
    there to its last token) are estimated jointly, since each alone is too short. Gross, like the total.

    `chance` is the relative half-width that the passes' scatter leaves on their joules per token, None where
    there are too few; what the joint estimate leaves open of these very windows adds to it in quadrature.
    """
    windows, prompt_tokens, decoded_tokens = _windows(passes)
    if not windows[PREFILL]:
        none = Estimate.missing("J/token", "the backend tells no first-token times")
        return none, none
    readings = [joint_powers(trace, windows, domain.name) for domain in domains]

    def per_token(kind: str, tokens: int) -> Estimate:
        if tokens == 0:
            return Estimate.missing("J/token", f"no token was made in {kind}")
        energies = [reading[kind].energy for reading in readings]
        cost = scaled(total(energies, unit="J", why_none=why_none), 1 / tokens, "J/token")
        return _with_chance(cost, chance, few_passes(len(replicates(passes))))

    return per_token(PREFILL, prompt_tokens), per_token(DECODE, decoded_tokens)


def _with_chance(cost: Estimate, chance: float | None, why_not: str) -> Estimate:
    width = half_width(cost)
    if cost.value is None or width is None:
        return cost
    if chance is None:
        return replace(cost, low=None, high=None, reason=why_not)
    half = math.hypot(width, chance * cost.value)
    return replace(cost, low=cost.value - half, high=cost.value + half)


def _windows(passes: Sequence[Pass]) -> tuple[dict[str, list[Window]], int, int]:
    """Windows of each kind, one for every batch, and the tokens that were read and made in them."""
    windows: dict[str, list[Window]] = {PREFILL: [], DECODE: []}
    prompt_tokens = decoded_tokens = 0
    for batch in _batches(passes):
        firsts = [one.t_first_ns for one in batch if one.t_first_ns is not None]
        if len(firsts) < len(batch):
            continue
        sent_ns, first_ns = min(one.t_sent_ns for one in batch), max(firsts)
        last_ns = max(one.t_end_ns for one in batch)
        windows[PREFILL].append(Window(sent_ns, first_ns))
        prompt_tokens += sum(one.prompt_tokens for one in batch)
        if last_ns > first_ns:
            windows[DECODE].append(Window(first_ns, last_ns))
            decoded_tokens += sum(one.output_tokens - 1 for one in batch)
    return windows, prompt_tokens, decoded_tokens


def _batches(passes: Sequence[Pass]) -> list[list[Completion]]:
    batches: dict[tuple[int, int, int], list[Completion]] = defaultdict(list)
    for number, passed in enumerate(passes):
        for one in passed.generation.completions:
            batches[number, one.walk, one.batch].append(one)
    return list(batches.values())
