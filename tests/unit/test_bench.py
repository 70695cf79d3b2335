"""What a worker's bench asks of a session, whoever wrote it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import pytest

from llenergymeasure.backends import Observer
from llenergymeasure.backends.simulated import SimulatedBackend, SimulatedSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.records import Block, Completion, Generation, Pass, Request, SessionFacts
from llenergymeasure.simulation.clock import VirtualClock

Bend = Callable[[tuple[Completion, ...]], tuple[Completion, ...]]


class BentSession(SimulatedSession):
    def __init__(self, config: ExperimentConfig, clock: VirtualClock, bend: Bend) -> None:
        super().__init__(config, clock)
        self._bend = bend

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        return Generation(self._bend(tuple(super().generate(requests, observe).completions)))


class BentBackend(SimulatedBackend):
    def __init__(self, clock: VirtualClock, bend: Bend) -> None:
        super().__init__(clock)
        self._virtual, self._bend = clock, bend

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[SimulatedSession]:
        yield BentSession(config, self._virtual, self._bend)


def bench(bend: Bend, **changes: object) -> Bench:
    clock = VirtualClock()
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 4, "simulated": {"batch_size": 2}, **changes}
    )
    return Bench(config, load=lambda _: BentBackend(clock, bend), clock=clock, position=Position())


def nothing() -> None:
    pass


def one_pass(of: Bench) -> Pass:
    (done,) = of.run_block("full", 1, before=nothing, edge=nothing, after=nothing)
    return done


def test_a_session_that_answers_each_request_in_order_is_taken() -> None:
    with bench(lambda done: done) as whole:
        whole.open()
        whole.warm_up()
        completions = one_pass(whole).generation.completions
    assert [done.index for done in completions[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (lambda done: done[:-1], "1 requests of 2"),
        (lambda done: (*done, done[-1]), "3 requests of 2"),
        (lambda done: done[::-1], "another order"),
        (lambda done: (replace(done[0], t_end_ns=done[0].t_sent_ns - 1), *done[1:]), "run backwards"),
        (lambda done: (replace(done[0], t_first_ns=done[0].t_end_ns + 1), *done[1:]), "run backwards"),
        (lambda done: (replace(done[0], output_tokens=-1), *done[1:]), "-1 output tokens in request"),
    ],
)
def test_one_that_loses_disorders_predates_or_miscounts_answers_ends_the_warm_up(
    bend: Bend, said: str
) -> None:
    with bench(bend) as broken:
        broken.open()
        with pytest.raises(BackendError, match=said):
            broken.warm_up()


def test_what_goes_wrong_in_a_pass_alone_is_seen_there() -> None:
    with bench(lambda done: done[:3]) as broken:  # a batch has two requests, a walk four
        broken.open()
        broken.warm_up()
        with pytest.raises(BackendError, match="3 requests of 4"):
            one_pass(broken)


def test_a_first_token_that_is_not_told_is_no_fault() -> None:
    with bench(lambda done: tuple(replace(one, t_first_ns=None) for one in done)) as silent:
        silent.open()
        silent.warm_up()
        assert one_pass(silent).generation.completions[0].t_first_ns is None


def test_a_fault_in_what_the_passes_gave_is_said_once_the_silence_after_them_is_over() -> None:
    order: list[str] = []
    with bench(lambda done: done[:3]) as broken:
        broken.open()
        broken.warm_up()
        with pytest.raises(BackendError):
            broken.run_block(
                "full",
                1,
                before=lambda: order.append("before"),
                edge=lambda: order.append("edge"),
                after=lambda: order.append("after"),
            )
    assert order == ["before", "after"]


# What may not happen in a silence


class WatchedSession(SimulatedSession):
    """Notes each call in the order of all that happens."""

    def __init__(self, config: ExperimentConfig, clock: VirtualClock, order: list[str]) -> None:
        super().__init__(config, clock)
        self._order = order

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        self._order.append(f"generate {max(one.max_output_tokens for one in requests)}")
        return super().generate(requests, observe)

    def synchronize(self) -> None:
        self._order.append("synchronize")

    def reset_peak(self) -> None:
        self._order.append("reset_peak")
        super().reset_peak()

    def facts(self) -> SessionFacts:
        self._order.append("facts")
        return super().facts()


class WatchedBackend(SimulatedBackend):
    def __init__(self, clock: VirtualClock, order: list[str]) -> None:
        super().__init__(clock)
        self._virtual, self._order = clock, order

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[SimulatedSession]:
        yield WatchedSession(config, self._virtual, self._order)


def watched(order: list[str], **changes: object) -> Bench:
    clock = VirtualClock()
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 2, "max_output_tokens": 8, **changes}
    )
    return Bench(config, load=lambda _: WatchedBackend(clock, order), clock=clock, position=Position())


def test_the_engine_is_left_alone_in_a_silence_and_synchronized_at_both_of_its_ends() -> None:
    order: list[str] = []
    with watched(order, passes={"seconds": 0.001}) as of:
        of.open()
        of.warm_up()
        for kind, tokens in (("full", 8), ("prefill", 1)):
            order.clear()
            of.run_block(
                "full" if kind == "full" else "prefill",
                2,
                before=lambda: order.append("silence"),
                edge=lambda: order.append("edge"),
                after=lambda: order.append("silence"),
            )
            first, second = (at for at, what in enumerate(order) if what == "silence")
            assert order[first - 1] == "synchronize"
            assert order[second - 1] == "synchronize"
            assert order[second + 1 :] == []
            inner = order.index("edge")
            assert order.count("edge") == 1
            for one in (order[first + 1 : inner], order[inner + 1 : second]):
                assert set(one) == {f"generate {tokens}", "synchronize"}


def test_peaks_are_reset_before_the_first_block_alone() -> None:
    order: list[str] = []
    with watched(order) as of:
        of.open()
        of.warm_up()
        assert "reset_peak" not in order
        one_pass(of)
        one_pass(of)
    assert order.count("reset_peak") == 1


def test_garbage_is_collected_before_a_silence_and_never_in_it() -> None:
    class Trash:
        def __init__(self) -> None:
            self.self = self

    seen: list[tuple[bool, bool]] = []
    with watched([]) as of:
        of.open()
        trash = weakref.ref(Trash())

        def look() -> None:
            seen.append((gc.isenabled(), trash() is None))

        of.run_block("full", 1, before=look, edge=nothing, after=look)
        assert gc.isenabled()
        gc.disable()
        try:
            of.run_block("full", 1, before=look, edge=nothing, after=look)
            assert not gc.isenabled()
        finally:
            gc.enable()
    assert seen == [(False, True)] * 4


def test_prefill_is_warmed_up_where_it_is_measured_and_not_where_it_is_not() -> None:
    with_prefill: list[str] = []
    without: list[str] = []
    for order, passes in ((with_prefill, 1), (without, 0)):
        with watched(order, passes={"prefill": passes}) as of:
            of.open()
            of.warm_up()
    assert "generate 1" in with_prefill
    assert "generate 1" not in without


def test_passes_of_prefill_walk_the_same_prompts_with_one_token_each() -> None:
    with bench(lambda done: done, output_length="natural", simulated={"eos_probability": 0.5}) as whole:
        whole.open()
        full = whole.run_block("full", 1, before=nothing, edge=nothing, after=nothing)
        prefill = whole.run_block("prefill", 2, before=nothing, edge=nothing, after=nothing)
    block = Block("prefill", None, prefill, None)
    prompts = [done.prompt_tokens for done in full[0].generation.completions[:4]]
    for one in block.passes:
        assert [done.prompt_tokens for done in one.generation.completions[:4]] == prompts
        assert {done.output_tokens for done in one.generation.completions} == {1}
    assert {done.walk for done in block.passes[1].generation.completions} == set(range(block.passes[1].walks))


def test_a_walk_is_as_long_as_its_batches_were_in_the_warm_up() -> None:
    with bench(lambda done: done, simulated={"batch_size": 1, "scatter": 0.0}) as whole:
        whole.open()
        warm_up = whole.warm_up()
        done = one_pass(whole)
    assert warm_up.walk_s == pytest.approx(4 * median(warm_up.batch_s[-5:]))
    assert warm_up.walk_s == pytest.approx(done.window.duration_s / done.walks, rel=0.05)


def test_each_batch_of_the_warm_up_is_announced_with_what_the_last_one_took() -> None:
    heard: list[tuple[int, float | None]] = []
    with bench(lambda done: done, simulated={"batch_size": 2, "scatter": 0.0}) as whole:
        whole.open()
        warm_up = whole.warm_up(lambda began: heard.append((began.number, began.last_s)))
    assert [number for number, _ in heard] == list(range(1, len(warm_up.batch_s) + 2))
    assert heard[0][1] is None
    assert [last_s for _, last_s in heard[2:]] == list(warm_up.batch_s[:-1])
