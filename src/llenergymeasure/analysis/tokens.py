"""How many tokens went in and came out, and do the engine and the tokenizer agree on it?"""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.analysis.server import DISPUTED, WARNED, apart, is_disputed, server_part
from llenergymeasure.records import Completion, Measurement, MeasurementWarning, Pass
from llenergymeasure.results.models import Tokens


def tokens(measurements: Sequence[Measurement]) -> Tokens:
    """Sums over the passes of all runs: the engine's counts, and llem's own where every request has one."""
    passes = [one for measurement in measurements for one in measurement.passes]
    everything = [done for one in passes for done in one.generation.completions]
    done = [one for one in everything if one.finish != "error"]
    measurement = measurements[0]
    wanted, most = measurement.output_lengths, measurement.config.max_output_tokens
    read, written = (
        sum(one.prompt_tokens for one in passes),
        sum(one.output_tokens for one in passes),
    )
    # Those of requests that reach over the edges of windows add up to something else than the windows do.
    counted = [] if measurement.config.is_stream else done
    natural = measurement.config.output_length == "natural"
    return Tokens(
        input=read,
        output=written,
        total=read + written,
        requests=len(done),
        failed=len(everything) - len(done),
        pinned_ok=None
        if natural
        else all(one.output_tokens == (wanted[one.index] if wanted else most) for one in done),
        disputed=any(apart(*counts) > DISPUTED for counts in _counted_twice(done).values())
        or is_disputed(server_part(measurements)),
        local_input=_sum_of_all([one.local_prompt_tokens for one in counted]),
        local_output=_sum_of_all([one.local_output_tokens for one in counted]),
        cut_prompts=measurement.cut_prompts,
    )


def token_warnings(passes: Sequence[Pass]) -> list[MeasurementWarning]:
    """Where the engine's count and the tokenizer's, summed over the requests that have both, are apart."""
    return [
        MeasurementWarning.of(
            "tokens_disputed",
            f"{what} tokens: the engine counts {engine:,} and the tokenizer {local:,}, "
            f"{100 * apart(engine, local):.3g} % apart; the engine's count is used",
        )
        for what, (engine, local) in _counted_twice(
            [done for one in passes for done in one.generation.answered]
        ).items()
        if apart(engine, local) > WARNED
    ]


def _counted_twice(done: Sequence[Completion]) -> dict[str, tuple[int, int]]:
    """The engine's sum and the tokenizer's over the requests that have both."""
    read = [
        (one.prompt_tokens, one.local_prompt_tokens) for one in done if one.local_prompt_tokens is not None
    ]
    written = [
        (one.output_tokens, one.local_output_tokens) for one in done if one.local_output_tokens is not None
    ]
    return {
        what: (sum(engine for engine, _ in both), sum(local for _, local in both))
        for what, both in (("prompt", read), ("output", written))
    }


def _sum_of_all(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
