"""What a worker's bench asks of a session, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from llenergymeasure.backends import Observer
from llenergymeasure.backends.simulated import SimulatedBackend, SimulatedSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.records import Completion, Generation, Request
from llenergymeasure.simulation.clock import VirtualClock

Bend = Callable[[tuple[Completion, ...]], tuple[Completion, ...]]


class BentSession(SimulatedSession):
    def __init__(self, config: ExperimentConfig, clock: VirtualClock, bend: Bend) -> None:
        super().__init__(config, clock)
        self._bend = bend

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        return Generation(self._bend(super().generate(requests, observe).completions))


class BentBackend(SimulatedBackend):
    def __init__(self, clock: VirtualClock, bend: Bend) -> None:
        super().__init__(clock)
        self._virtual, self._bend = clock, bend

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[SimulatedSession]:
        yield BentSession(config, self._virtual, self._bend)


def bench(bend: Bend) -> Bench:
    clock = VirtualClock()
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 4, "simulated": {"batch_size": 2}}
    )
    return Bench(config, load=lambda _: BentBackend(clock, bend), clock=clock, position=Position())


def test_a_session_that_answers_each_request_in_order_is_taken() -> None:
    with bench(lambda done: done) as whole:
        whole.open()
        whole.warm_up()
        completions = whole.run_pass(1, lambda: None).generation.completions
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
            broken.run_pass(1, lambda: None)


def test_a_first_token_that_is_not_told_is_no_fault() -> None:
    with bench(lambda done: tuple(replace(one, t_first_ns=None) for one in done)) as silent:
        silent.open()
        silent.warm_up()
        assert silent.run_pass(1, lambda: None).generation.completions[0].t_first_ns is None
