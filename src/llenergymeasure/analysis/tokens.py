"""How many tokens went in and came out, and do the engine and the tokenizer agree on it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llenergymeasure.analysis.server import DISPUTED, WARNED, apart, is_disputed, server_part
from llenergymeasure.records import Completion, Measurement, MeasurementWarning, Pass
from llenergymeasure.results.models import Tokens


def tokens(measurements: Sequence[Measurement]) -> Tokens:
    """Sums over the passes of all runs: the engine's counts, and llem's own where every request has one."""
    passes = [one for measurement in measurements for one in measurement.passes]
    requests = sum(len(one.generation.completions) for one in passes)
    answered = sum(1 for _ in _answered(passes))
    measurement = measurements[0]
    wanted, most = measurement.output_lengths, measurement.config.max_output_tokens
    read, written = (
        sum(one.prompt_tokens for one in passes),
        sum(one.output_tokens for one in passes),
    )
    natural = measurement.config.output_length == "natural"
    return Tokens(
        input=read,
        output=written,
        total=read + written,
        requests=answered,
        failed=requests - answered,
        pinned_ok=None
        if natural or not answered
        else all(one.output_tokens == (wanted[one.index] if wanted else most) for one in _answered(passes)),
        disputed=any(apart(*counts) > DISPUTED for counts in _counted_twice(passes).values())
        or is_disputed(server_part(measurements)),
        local_input=_local(measurement, passes, "local_prompt_tokens"),
        local_output=_local(measurement, passes, "local_output_tokens"),
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
        for what, (engine, local) in _counted_twice(passes).items()
        if apart(engine, local) > WARNED
    ]


def _answered(passes: Sequence[Pass]) -> Iterator[Completion]:
    return (done for one in passes for done in one.generation.answered)


def _counted_twice(passes: Sequence[Pass]) -> dict[str, tuple[int, int]]:
    """The engine's sum and the tokenizer's over the requests that have both."""
    read = written = local_read = local_written = 0
    for one in _answered(passes):
        if one.local_prompt_tokens is not None:
            read, local_read = read + one.prompt_tokens, local_read + one.local_prompt_tokens
        if one.local_output_tokens is not None:
            written, local_written = written + one.output_tokens, local_written + one.local_output_tokens
    return {"prompt": (read, local_read), "output": (written, local_written)}


def _local(measurement: Measurement, passes: Sequence[Pass], name: str) -> int | None:
    """The sum where all have one. Requests that reach over the edges of windows add up to something else than
    the windows do.
    """
    counts = [] if measurement.config.is_stream else [getattr(one, name) for one in _answered(passes)]
    return sum(counts) if counts and None not in counts else None
