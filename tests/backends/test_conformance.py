"""Does every engine keep the promises of `Session`? One loaded model answers all of this file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.backends.engines import (
    CONTEXT,
    END_OF_SEQUENCE,
    SHORT_ANSWERS,
    Engine,
    asked,
    configured,
    replaced,
)

from llenergymeasure.backends import Session, load_backend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Generation, Request
from llenergymeasure.workload.prepared import prepared

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

# Emoji with a joiner and a skin tone, scripts from right to left and without spaces, marks that combine,
# a mathematical alphabet beyond the first plane, and a zero-width space.
UNICODE = (
    "👩🏽‍🚀🔥 ok?",
    "日本語のテキスト、한국어、中文",
    "e\u0301\u0328 ñ Z̷̛̘a̶l̵g̸o̴",
    "مرحبا ﷺ",
    "𝔘𝔫𝔦\u200b𝔠𝔬𝔡𝔢",
)


class Log:
    """An observer that notes what it is told, and when; `stop_at` makes it raise at that batch."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        self.batches: list[tuple[list[int], int, int]] = []
        self._stop_at = stop_at

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        if len(self.batches) == self._stop_at:
            raise Stopped
        self.batches.append(([request.index for request in requests], t_ns, time.monotonic_ns()))


class Stopped(Exception):  # noqa: N818  it is no error
    pass


@dataclass(frozen=True, slots=True)
class Loaded:
    engine: Engine
    config: ExperimentConfig
    session: Session

    def walk(self, requests: Sequence[Request], log: Log | None = None) -> Generation:
        return self.session.generate(requests, log or Log())


@pytest.fixture(scope="module")
def loaded(engine: Engine, model: str) -> Iterator[Loaded]:
    config = configured(engine, model)
    with load_backend(engine.name).open(config) as session:
        yield Loaded(engine, config, session)


def counts(generation: Generation) -> list[int]:
    return [done.output_tokens for done in generation.completions]


def prompts_of(loaded: Loaded, folder: Path, texts: Sequence[str]) -> list[Request]:
    """The texts as the engine's own workload holds them, in an order that the seed decides."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    changes: dict[str, JsonValue] = {"n": len(texts), "dataset": {"name": str(path)}}
    config = configured(loaded.engine, loaded.config.model, **changes)
    return list(prepared(config).workload.requests)


def test_exact_requests_of_mixed_lengths_each_get_what_they_ask_for(loaded: Loaded) -> None:
    generation = loaded.walk(asked([5, 40, 1, 17, 8], [5, 1, 9, 3, 16]))
    assert counts(generation) == [5, 1, 9, 3, 16]
    assert [done.prompt_tokens for done in generation.completions] == [5, 40, 1, 17, 8]
    assert {done.finish for done in generation.completions} == {"length"}


def test_natural_requests_of_mixed_limits_each_end_at_their_own(loaded: Loaded, folder: Path) -> None:
    requests = [
        replace(request, exact=False, max_output_tokens=limit)
        for request, limit in zip(prompts_of(loaded, folder, SHORT_ANSWERS), (1, 12, 2), strict=True)
    ]
    done = loaded.walk(requests).completions
    assert [one.output_tokens <= limit for one, limit in zip(done, (1, 12, 2), strict=True)] == [True] * 3
    assert done[0].output_tokens == 1
    assert all(
        one.finish == "eos" or one.output_tokens == limit for one, limit in zip(done, (1, 12, 2), strict=True)
    )


def test_completions_come_in_the_order_of_the_requests_under_their_own_indices(loaded: Loaded) -> None:
    requests = list(reversed(asked([12, 3, 30, 7, 9], [2, 8, 1, 6, 3], first=40)))
    done = loaded.walk(requests).completions
    assert [one.index for one in done] == [44, 43, 42, 41, 40]
    assert [one.output_tokens for one in done] == [3, 6, 1, 8, 2]
    assert {one.walk for one in done} == {0}


def test_one_prompt_token_and_one_output_token_are_enough(loaded: Loaded) -> None:
    (done,) = loaded.walk(asked([1], 1)).completions
    assert (done.prompt_tokens, done.output_tokens, done.finish) == (1, 1, "length")
    assert done.t_first_ns == done.t_end_ns


def test_times_run_forward_and_lie_within_the_call(loaded: Loaded) -> None:
    before_ns = time.monotonic_ns()
    done = loaded.walk(asked([5, 20, 9], [4, 1, 8])).completions
    loaded.session.synchronize()
    after_ns = time.monotonic_ns()
    for one in done:
        assert one.t_first_ns is not None
        assert before_ns <= one.t_scheduled_ns <= one.t_sent_ns < one.t_first_ns <= one.t_end_ns <= after_ns
        assert (one.t_end_ns > one.t_first_ns) == (one.output_tokens > 1)


def test_the_observer_hears_of_every_batch_before_it_is_sent(loaded: Loaded) -> None:
    log = Log()
    done = loaded.walk(asked([5, 6, 7, 8, 9]), log).completions
    assert [index for indices, _, _ in log.batches for index in indices] == [0, 1, 2, 3, 4]
    size = loaded.config.batch_size
    assert [len(indices) for indices, _, _ in log.batches] == [min(size, 5 - at) for at in range(0, 5, size)]
    for number, (indices, told_ns, heard_ns) in enumerate(log.batches):
        for one in done:
            if one.index in indices:
                assert one.batch == number
                assert one.t_first_ns is not None
                assert told_ns <= one.t_sent_ns
                assert told_ns <= heard_ns < one.t_first_ns


def test_a_batch_ends_before_the_next_one_is_sent(loaded: Loaded) -> None:
    log = Log()
    done = loaded.walk(asked([9, 8, 7, 6], [2, 7, 2, 2]), log).completions
    for number, (_, told_ns, _) in enumerate(log.batches):
        assert all(one.t_end_ns <= told_ns for one in done if one.batch < number)


def test_what_the_observer_raises_passes_and_nothing_of_it_stays_in_the_engine(loaded: Loaded) -> None:
    requests = asked([5, 6, 7, 8], 4)
    expected = loaded.walk(requests)
    with pytest.raises(Stopped):
        loaded.walk(asked([20, 21, 22, 23], 9), Log(stop_at=1))
    again = loaded.walk(requests)
    assert counts(again) == counts(expected)
    assert again.output_ids == expected.output_ids


def test_every_walk_does_the_same_work(loaded: Loaded, folder: Path) -> None:
    natural = replaced(prompts_of(loaded, folder, SHORT_ANSWERS), exact=False, output=12)
    for requests in (asked([5, 17, 30], [4, 2, 6]), natural):
        first, second = loaded.walk(requests), loaded.walk(requests)
        assert counts(first) == counts(second)
        assert first.output_ids == second.output_ids


def test_an_answer_does_not_depend_on_its_neighbours(loaded: Loaded, folder: Path) -> None:
    requests = replaced(prompts_of(loaded, folder, SHORT_ANSWERS), exact=True, output=3)
    together, alone = loaded.walk(requests), [loaded.walk([request]) for request in requests]
    assert counts(together) == [3, 3, 3]
    if together.output_ids is not None:
        assert list(together.output_ids) == [ids for one in alone if one.output_ids for ids in one.output_ids]


def test_token_ids_are_as_many_as_counted(loaded: Loaded) -> None:
    generation = loaded.walk(asked([5, 17, 30], [8, 1, 12]))
    if loaded.engine.takes == "nothing":
        assert generation.output_ids is None
        return
    assert generation.output_ids is not None
    assert [len(ids) for ids in generation.output_ids] == [8, 1, 12]
    assert len({ids[0] for ids in generation.output_ids}) > 1, "three prompts, one answer"


def test_a_natural_request_ends_with_the_end_of_sequence_and_counts_it(loaded: Loaded, folder: Path) -> None:
    generation = loaded.walk(
        replaced(prompts_of(loaded, folder, SHORT_ANSWERS), exact=False, output=CONTEXT - 64)
    )
    assert {done.finish for done in generation.completions} == {"eos"}
    assert all(1 <= done.output_tokens < CONTEXT - 64 for done in generation.completions)
    for ids, done in zip(generation.output_ids or (), generation.completions, strict=False):
        assert len(ids) == done.output_tokens
        assert ids.index(END_OF_SEQUENCE) == len(ids) - 1


def test_a_natural_request_that_is_not_done_ends_at_its_limit(loaded: Loaded, folder: Path) -> None:
    requests = prompts_of(loaded, folder, SHORT_ANSWERS)
    done = loaded.walk(replaced(requests, exact=False, output=1)).completions
    assert [one.output_tokens for one in done] == [1, 1, 1]
    if loaded.engine.takes != "nothing":
        assert {one.finish for one in done} == {"length"}


def test_an_exact_request_never_meets_the_end_of_sequence(loaded: Loaded, folder: Path) -> None:
    requests = replaced(prompts_of(loaded, folder, SHORT_ANSWERS), exact=True, output=12)
    generation = loaded.walk(requests)
    assert counts(generation) == [12, 12, 12]
    assert {done.finish for done in generation.completions} == {"length"}
    for ids in generation.output_ids or ():
        assert END_OF_SEQUENCE not in ids


def test_a_request_without_a_prompt_is_refused_by_its_index(loaded: Loaded) -> None:
    fine, empty = asked([4]), Request(7, (), 4, exact=True)
    log = Log()
    with pytest.raises(BackendError, match="request 7 has no prompt tokens"):
        loaded.walk([*fine, empty], log)
    assert log.batches == [], "refused before anything was handed over"
    assert counts(loaded.walk(fine)) == [4]


def test_the_longest_context_is_filled_to_the_last_token(loaded: Loaded) -> None:
    done = loaded.walk(asked([CONTEXT - 5, CONTEXT - 1], [5, 1])).completions
    assert [(one.prompt_tokens, one.output_tokens) for one in done] == [(CONTEXT - 5, 5), (CONTEXT - 1, 1)]


def test_one_token_more_than_the_context_holds_is_refused(loaded: Loaded) -> None:
    if loaded.engine.takes == "nothing":
        pytest.skip("an engine without a model has no context")
    fine, long = asked([4]), asked([CONTEXT - 4], 5, first=3)
    with pytest.raises(BackendError, match=rf"request 3 has {CONTEXT - 4} prompt tokens .* {CONTEXT} tokens"):
        loaded.walk([*fine, *long])
    assert counts(loaded.walk(fine)) == [4]


def test_prompts_beyond_ascii_keep_their_ids_and_are_answered(loaded: Loaded, folder: Path) -> None:
    requests = prompts_of(loaded, folder, UNICODE)
    assert prompts_of(loaded, folder, UNICODE) == requests
    requests = replaced(requests, exact=True, output=3)
    generation = loaded.walk(requests)
    assert [done.prompt_tokens for done in generation.completions] == [len(one.prompt) for one in requests]
    assert counts(generation) == [3] * len(UNICODE)


def test_facts_say_what_is_in_force(loaded: Loaded) -> None:
    facts = loaded.session.facts()
    assert facts.device
    assert facts.arguments
    json.dumps(dict(facts.arguments), allow_nan=False)
    assert facts.versions
    assert all(version and isinstance(version, str) for version in facts.versions.values())
    assert len(set(facts.gpu_uuids)) == len(facts.gpu_uuids)


def test_memory_is_plausible(loaded: Loaded) -> None:
    loaded.session.reset_peak()
    loaded.walk(asked([40, 40], 8))
    facts = loaded.session.facts()
    if loaded.engine.weights_bytes is None:
        return
    low, high = loaded.engine.weights_bytes
    assert facts.weights_bytes is not None
    assert low <= facts.weights_bytes <= high
    assert facts.memory_source
    assert facts.peak_bytes is not None
    assert facts.weights_bytes < facts.peak_bytes < facts.weights_bytes + 16e9
    if facts.kv_cache_bytes is not None:
        # Grouped heads: 2 · 30 layers · 3 heads · 64 · 2 bytes a token; 48 tokens of one request at least.
        assert facts.kv_cache_bytes >= 48 * 2 * 30 * 3 * 64
