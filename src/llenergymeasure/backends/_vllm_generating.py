"""What does vLLM answer when it is handed a batch?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llenergymeasure.backends._vllm_arguments import beam_params, sampling_params, vllm_errors
from llenergymeasure.backends._vllm_processes import ENDED_HINT, is_aftermath, is_out_of_memory
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import FinishReason, Request


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's output. `cached_tokens` are those of its prompt that were in the cache already."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    first_ns: int | None
    end_ns: int
    finish: FinishReason
    cached_tokens: int = 0


def sampled(llm: Any, config: ExperimentConfig, members: Sequence[Request], *, lora: Any) -> list[Answer]:
    """Handed over at once, in their order.

    The engine stamps a step with time.monotonic() when its tokens are on the host. A version that hands no
    stamps on leaves the time of the whole batch.
    """
    outputs = _run(
        llm,
        [_prompt(request) for request in members],
        [sampling_params(config, request) for request in members],
        lora=lora,
    )
    returned_ns = time.monotonic_ns()
    answers = []
    for output in outputs:
        one, times = output.outputs[0], output.metrics
        answers.append(
            Answer(
                tokens=tuple(one.token_ids),
                prompt_tokens=len(output.prompt_token_ids),
                first_ns=None if times is None else round(times.first_token_ts * 1e9),
                end_ns=returned_ns if times is None else round(times.last_token_ts * 1e9),
                finish="eos" if one.finish_reason == "stop" else "length",
                cached_tokens=output.num_cached_tokens or 0,
            )
        )
    return answers


def searched(llm: Any, config: ExperimentConfig, members: Sequence[Request], *, lora: Any) -> list[Answer]:
    """By beam search, the best beam of each: handed over at once where they want the same."""
    answers: dict[int, Answer] = {}
    for tokens, exact in dict.fromkeys((one.max_output_tokens, one.exact) for one in members):
        places = [
            place
            for place, one in enumerate(members)
            if (one.max_output_tokens, one.exact) == (tokens, exact)
        ]
        outputs = llm.beam_search(
            [_prompt(members[place]) for place in places],
            beam_params(config, max_tokens=tokens, exact=exact),
            lora_request=lora,
        )
        returned_ns = time.monotonic_ns()
        for place, output in zip(places, outputs, strict=True):
            prompt = len(members[place].prompt)
            written = tuple(output.sequences[0].tokens[prompt:])
            ended = written[-1:] == (llm.get_tokenizer().eos_token_id,) and not exact
            answers[place] = Answer(written, prompt, None, returned_ns, "eos" if ended else "length")
    return [answers[place] for place in range(len(members))]


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """BackendError or MemoryError for what vLLM raises while it works."""
    python: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError)
    try:
        yield
    except python + vllm_errors() as error:
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if is_out_of_memory(message):
            raise MemoryError(f"{doing}: {message}") from error
        if is_aftermath(message):
            raise BackendError(f"a process of the engine ended while {doing}", hint=ENDED_HINT) from error
        raise BackendError(
            f"vLLM failed while {doing}: {message}", hint="the worker's log may say why"
        ) from error


def _run(llm: Any, prompts: list[Any], params: list[Any], *, lora: Any) -> Any:
    """The outputs, in order. The engine is held until it has all requests: else it reads the first of them
    while the others are still on their way, and which ones share a step is another matter in every walk.
    """
    if not (hasattr(llm, "enqueue") and "Level 0" in (type(llm).sleep.__doc__ or "")):
        return llm.generate(prompts, params, use_tqdm=False, lora_request=lora)
    llm.sleep(level=0)
    llm.enqueue(prompts, params, lora_request=lora, use_tqdm=False)
    llm.wake_up(tags=["scheduling"])
    return llm.wait_for_completion(use_tqdm=False)


def _prompt(request: Request) -> Any:
    import vllm

    return vllm.TokensPrompt(prompt_token_ids=list(request.prompt))
