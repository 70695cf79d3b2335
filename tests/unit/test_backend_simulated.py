from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from llenergymeasure.backends import Session, load_backend
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Completion, Generation, Request


class Ticks:
    """A clock whose time passes only by sleeping."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.sleeps_s: list[float] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float, /) -> None:
        self.sleeps_s.append(seconds)
        self.now_ns += round(seconds * 1e9)


class Log:
    """Notes every batch; `stop_at` is the batch at which a cancelled run would end."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.batches: list[tuple[list[int], int]] = []
        self.stop_at = stop_at

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        if self.stop_at == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(([request.index for request in requests], t_ns))


def configured(*, output_length: str = "exact", seed: int = 42, **simulated: JsonValue) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "output_length": output_length,
            "random_seed": seed,
            "simulated": {"scatter": 0, **simulated},
        }
    )


def asked(n: int, *, prompt: int = 10, output: int = 5, exact: bool = True) -> list[Request]:
    return [Request(index, tuple(range(prompt)), output, exact) for index in range(n)]


def lengths(generation: Generation) -> list[int]:
    return [done.output_tokens for done in generation.completions]


def walk(config: ExperimentConfig, requests: Sequence[Request]) -> Generation:
    with SimulatedBackend(Ticks()).open(config) as session:
        return session.generate(requests, Log())


def test_loading_takes_the_requested_time() -> None:
    clock = Ticks()
    with SimulatedBackend(clock).open(configured(load_s=2.5)):
        assert clock.now_ns == 1_000_000_000 + 2_500_000_000


def test_a_batch_takes_its_prefill_and_then_a_step_for_every_further_token() -> None:
    config = configured(batch_size=4, load_s=0, prefill_s_per_token=0.001, decode_s_per_step=0.01)
    (first, *_rest, last) = walk(config, asked(4, prompt=10, output=6)).completions
    assert first.t_first_ns == first.t_sent_ns + 40_000_000
    assert last.t_end_ns == first.t_first_ns + 50_000_000


def test_shorter_requests_of_a_batch_end_at_the_step_of_their_last_token() -> None:
    config = configured(batch_size=2, load_s=0, prefill_s_per_token=0, decode_s_per_step=0.01)
    requests = [Request(0, (1,), 3, exact=True), Request(1, (1, 2), 11, exact=True)]
    short, long = walk(config, requests).completions
    assert short.t_end_ns - short.t_sent_ns == 20_000_000
    assert long.t_end_ns - long.t_sent_ns == 100_000_000
    assert (short.output_tokens, long.output_tokens) == (3, 11)


def test_one_sleep_per_phase_so_that_a_thousand_tokens_cost_no_thousand_wake_ups() -> None:
    clock = Ticks()
    with SimulatedBackend(clock).open(configured(batch_size=1, load_s=0)) as session:
        session.generate(asked(3, output=1000), Log())
    assert len(clock.sleeps_s) == 1 + 2 * 3


def test_batches_keep_the_order_of_the_requests_and_the_last_may_be_smaller() -> None:
    log = Log()
    with SimulatedBackend(Ticks()).open(configured(batch_size=4)) as session:
        generation = session.generate(asked(10), log)
    assert [indices for indices, _ in log.batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [done.index for done in generation.completions] == list(range(10))
    assert [done.batch for done in generation.completions] == [0] * 4 + [1] * 4 + [2] * 2
    assert [sent for _, sent in log.batches] == [
        generation.completions[index].t_sent_ns for index in (0, 4, 8)
    ]


def test_exact_requests_get_what_they_ask_for_whatever_the_chance_of_an_early_end() -> None:
    generation = walk(configured(eos_probability=1.0), asked(8, output=7))
    assert lengths(generation) == [7] * 8
    assert {done.finish for done in generation.completions} == {"length"}


def test_natural_lengths_are_geometric_up_to_the_limit() -> None:
    config = configured(output_length="natural", eos_probability=0.1, batch_size=100)
    generation = walk(config, asked(20_000, output=15, exact=False))
    # E min(G, m) = (1 − q^m) / p for a geometric G on 1, 2, …; P(G > m) = q^m.
    expected = (1 - 0.9**15) / 0.1
    assert statistics.fmean(lengths(generation)) == pytest.approx(expected, rel=0.02)
    cut_off = sum(done.finish == "length" for done in generation.completions) / 20_000
    assert cut_off == pytest.approx(0.9**15, rel=0.05)
    assert all(done.output_tokens == 15 for done in generation.completions if done.finish == "length")


@pytest.mark.parametrize(("probability", "tokens"), [(0.0, 9), (1.0, 1)])
def test_certain_and_impossible_ends(probability: float, tokens: int) -> None:
    config = configured(output_length="natural", eos_probability=probability)
    assert lengths(walk(config, asked(3, output=9, exact=False))) == [tokens] * 3


def test_every_walk_does_the_same_work_in_times_of_its_own() -> None:
    config = configured(output_length="natural", scatter=0.05, eos_probability=0.1)
    with SimulatedBackend(Ticks()).open(config) as session:
        walks = [session.generate(asked(16, output=50, exact=False), Log()) for _ in range(2)]
    assert lengths(walks[0]) == lengths(walks[1])
    assert durations_ns(walks[0].completions) != durations_ns(walks[1].completions)


def durations_ns(completions: Sequence[Completion]) -> list[int]:
    return [done.t_end_ns - done.t_sent_ns for done in completions]


def test_the_seed_decides_times_and_lengths() -> None:
    requests = asked(32, output=50, exact=False)
    same, again, other = (
        walk(configured(output_length="natural", scatter=0.05, seed=seed), requests) for seed in (1, 1, 2)
    )
    assert same == again
    assert durations_ns(same.completions) != durations_ns(other.completions)
    assert lengths(same) != lengths(other)


def test_scatter_is_the_relative_standard_deviation_of_a_batch_with_its_mean_kept() -> None:
    config = configured(
        batch_size=1, load_s=0, scatter=0.2, prefill_s_per_token=0.001, decode_s_per_step=0.01
    )
    generation = walk(config, asked(20_000, prompt=10, output=10))
    seconds = [duration / 1e9 for duration in durations_ns(generation.completions)]
    assert statistics.fmean(seconds) == pytest.approx(0.1, rel=0.01)
    assert statistics.stdev(seconds) / 0.1 == pytest.approx(0.2, rel=0.03)
    assert min(seconds) > 0


@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=30),
    batch_size=st.integers(1, 9),
    scatter=st.floats(0, 1),
    exact=st.booleans(),
)
def test_times_are_ordered_and_lengths_bounded(
    sizes: list[tuple[int, int]], batch_size: int, scatter: float, exact: bool
) -> None:
    requests = [
        Request(index, tuple(range(prompt)), output, exact) for index, (prompt, output) in enumerate(sizes)
    ]
    done = walk(configured(batch_size=batch_size, scatter=scatter), requests).completions
    assert [one.prompt_tokens for one in done] == [prompt for prompt, _ in sizes]
    for one, request in zip(done, requests, strict=True):
        assert one.t_first_ns is not None
        assert one.t_scheduled_ns == one.t_sent_ns <= one.t_first_ns <= one.t_end_ns
        assert 1 <= one.output_tokens <= request.max_output_tokens
    for before, after in pairwise(done):
        assert before.batch == after.batch or before.t_end_ns <= after.t_sent_ns


def test_what_the_observer_raises_ends_the_walk() -> None:
    log = Log(stop_at=1)
    with (
        SimulatedBackend(Ticks()).open(configured(batch_size=2)) as session,
        pytest.raises(KeyboardInterrupt),
    ):
        session.generate(asked(6), log)
    assert len(log.batches) == 1


def warmed_up(session: Session) -> Session:
    session.generate(asked(4), Log())
    session.reset_peak()
    return session


def test_a_fault_at_open_strikes_after_the_time_to_load() -> None:
    clock = Ticks()
    config = configured(load_s=1.0, fault={"kind": "error", "at": "open"})
    with pytest.raises(BackendError, match="open"), SimulatedBackend(clock).open(config):
        pass
    assert clock.sleeps_s == [1.0]


def test_a_fault_in_warm_up_lets_the_asked_number_of_batches_succeed() -> None:
    log = Log()
    config = configured(batch_size=1, fault={"kind": "oom", "at": "warmup", "after_batches": 2})
    with SimulatedBackend(Ticks()).open(config) as session, pytest.raises(MemoryError):
        session.generate(asked(5), log)
    assert len(log.batches) == 3


def test_a_fault_in_a_pass_spares_the_warm_up_and_counts_batches_across_walks() -> None:
    log = Log()
    config = configured(batch_size=2, fault={"kind": "error", "at": "pass", "after_batches": 3})
    with SimulatedBackend(Ticks()).open(config) as session:
        warmed_up(session).generate(asked(4), log)
        with pytest.raises(BackendError, match="after 3 batches"):
            session.generate(asked(4), log)
    assert len(log.batches) == 4


def test_a_later_reset_of_the_peak_does_not_start_the_count_again() -> None:
    config = configured(batch_size=2, fault={"kind": "error", "at": "pass", "after_batches": 3})
    with SimulatedBackend(Ticks()).open(config) as session:
        warmed_up(session).generate(asked(4), Log())
        session.reset_peak()
        with pytest.raises(BackendError):
            session.generate(asked(4), Log())


def test_a_hang_lasts_an_hour_and_is_an_error_should_anyone_wait_for_it() -> None:
    clock = Ticks()
    config = configured(load_s=0, fault={"kind": "hang", "at": "pass"})
    with SimulatedBackend(clock).open(config) as session, pytest.raises(BackendError, match="hang"):
        warmed_up(session).generate(asked(1), Log())
    assert clock.sleeps_s[-1] == 3600


def test_a_crash_ends_the_process_on_the_spot() -> None:
    program = (
        "from llenergymeasure.backends.simulated import SimulatedBackend\n"
        "from llenergymeasure.config.models import ExperimentConfig\n"
        "config = ExperimentConfig.model_validate({'model': 'any', 'backend': 'simulated',"
        " 'simulated': {'load_s': 0, 'fault': {'kind': 'crash', 'at': 'open'}}})\n"
        "try:\n"
        "    with SimulatedBackend().open(config): print('opened')\n"
        "finally:\n"
        "    print('cleaned up')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


def test_facts_name_a_simulated_device_and_invent_no_bytes() -> None:
    with SimulatedBackend(Ticks()).open(configured(batch_size=3)) as session:
        facts = session.facts()
    assert facts.device == "simulated"
    assert facts.gpu_uuids == ("GPU-simulated-0",)
    assert facts.arguments["batch_size"] == 3
    assert set(facts.versions) == {"llenergymeasure"}
    assert (facts.peak_bytes, facts.weights_bytes, facts.kv_cache_bytes, facts.memory_source) == (None,) * 4


def test_the_table_opens_it_on_the_real_clock() -> None:
    backend = load_backend("simulated")
    assert backend.why_unavailable() is None
    before = time.monotonic_ns()
    config = configured(load_s=0.02, batch_size=2, prefill_s_per_token=0, decode_s_per_step=0.001)
    with backend.open(config) as session:
        (done,) = session.generate(asked(1, output=21), Log()).completions
        session.synchronize()
    assert done.t_sent_ns >= before + 20_000_000
    assert done.t_end_ns - done.t_sent_ns >= 20_000_000
    assert done.t_end_ns <= time.monotonic_ns()
