from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_models import Log, asked, configured, opening, tokens

from llenergymeasure.backends.pytorch import PytorchBackend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request

pytestmark = pytest.mark.real

LENGTHS = [3, 17, 8, 30, 5, 9, 11]


def children() -> list[psutil.Process]:
    """Those that run a session; multiprocessing's own helper lives on until this process ends."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "spawn_main" in " ".join(one.cmdline())]


def alone(tiny: Path, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in tokens(configured(tiny), requests, batch=1)]


def test_two_processes_share_the_batches_and_answer_as_one(tiny: Path) -> None:
    requests = asked(LENGTHS, output=8)
    log = Log()
    with opened(configured(tiny, batch_size=2)) as session:
        session.generate(requests, Log())
        one = session.facts()
    with PytorchBackend().open(configured(tiny, batch_size=2, num_processes=2)) as session:
        session.reset_peak()
        generation = session.generate(requests, log)
        facts = session.facts()
        assert len(children()) == 1
    assert children() == []
    assert list(generation.output_ids or ()) == alone(tiny, requests)
    assert [done.index for done in generation.completions] == list(range(7))
    # The batches are those of one process; they go round, so that the second and the fourth are the other's.
    assert [done.batch for done in generation.completions] == [0, 0, 1, 1, 2, 2, 3]
    assert sorted(indices for indices, _ in log.batches) == [[0, 1], [2, 3], [4, 5], [6]]
    told = {indices[0]: t_ns for indices, t_ns in log.batches}
    for done in generation.completions:
        assert done.t_first_ns is not None
        assert told[done.index - done.index % 2] <= done.t_sent_ns < done.t_first_ns <= done.t_end_ns
    assert facts.arguments["num_processes"] == 2
    assert facts.parameters == one.parameters
    assert facts.weights_bytes == 2 * (one.weights_bytes or 0)
    assert facts.kv_cache_bytes is not None
    assert one.kv_cache_bytes is not None
    assert one.kv_cache_bytes < facts.kv_cache_bytes <= 2 * one.kv_cache_bytes
    assert facts.memory_source is not None
    assert "summed over 2 processes" in facts.memory_source
    # This process alone holds what one did; the other's share comes on top.
    assert (facts.peak_bytes or 0) > 100_000_000 + (facts.weights_bytes or 0)


@pytest.mark.slow
def test_batches_of_two_processes_run_at_the_same_time(tiny: Path) -> None:
    import torch

    before = torch.get_num_threads()
    with PytorchBackend().open(configured(tiny, num_processes=2, threads=None)) as session:
        session.generate(asked([8, 8]), Log())
        assert session.facts().arguments["threads"] == max(1, before // 2)
        first, second = session.generate(asked([8, 8], output=100), Log()).completions
    assert first.t_sent_ns < second.t_end_ns
    assert second.t_sent_ns < first.t_end_ns


def test_a_process_that_dies_in_a_walk_ends_it_with_a_reason_and_nothing_is_left(tiny: Path) -> None:
    class Killer(Log):
        def batch(self, requests: Sequence[Request], t_ns: int) -> None:
            super().batch(requests, t_ns)
            if len(self.batches) == 2:
                os.kill(children()[0].pid, signal.SIGKILL)

    with (
        pytest.raises(BackendError, match=r"process 2 of 2 died of signal 9 \(SIGKILL\)"),
        PytorchBackend().open(configured(tiny, num_processes=2)) as session,
    ):
        session.generate(asked([4, 5, 6, 7], output=30), Killer())
    assert children() == []


@pytest.mark.slow
def test_a_process_that_dies_between_walks_is_noticed_at_the_next(tiny: Path) -> None:
    with PytorchBackend().open(configured(tiny, num_processes=2)) as session:
        (child,) = children()
        child.kill()
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(BackendError, match="process 2 of 2 died"):
            session.generate(asked([4, 5]), Log())


@pytest.mark.slow
def test_what_fails_in_a_child_is_raised_with_its_reason(tiny: Path) -> None:
    requests = [*asked([4]), Request(1, (3,) * 250, 100, exact=True)]
    with (
        PytorchBackend().open(configured(tiny, num_processes=2)) as session,
        pytest.raises(BackendError, match="process 2 of 2: request 1 has 250 prompt tokens") as caught,
    ):
        session.generate(requests, Log())
    assert caught.value.hint is not None


@pytest.mark.slow
def test_an_interrupt_ends_all_processes_at_once(tiny: Path) -> None:
    class Interrupted(Log):
        def batch(self, requests: Sequence[Request], t_ns: int) -> None:
            raise KeyboardInterrupt

    with PytorchBackend().open(configured(tiny, num_processes=2)) as session:
        with pytest.raises(KeyboardInterrupt):
            session.generate(asked([4, 5]), Interrupted())
        with pytest.raises(BackendError, match="broken off"):
            session.generate(asked([4, 5]), Log())
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 10
    assert children() == []


def test_a_model_is_split_over_two_processes_and_says_the_same(tiny: Path) -> None:
    requests = asked(LENGTHS, output=8)
    log = Log()
    config = configured(tiny, num_processes=2, tp_plan="auto", batch_size=2)
    with opened(configured(tiny, batch_size=2)) as session:
        session.generate(requests, Log())
        one = session.facts()
    with PytorchBackend().open(config) as session:
        generation = session.generate(requests, log)
        facts = session.facts()
    assert children() == []
    assert list(generation.output_ids or ()) == alone(tiny, requests)
    assert [indices for indices, _ in log.batches] == [[0, 1], [2, 3], [4, 5], [6]]
    assert facts.arguments["tp_plan"] == "auto"
    assert facts.parameters == one.parameters
    assert facts.kv_cache_bytes == one.kv_cache_bytes
    # Split are the layers' matrices; embedding and norms are in both.
    assert facts.weights_bytes is not None
    assert one.weights_bytes is not None
    assert one.weights_bytes < facts.weights_bytes < 2 * one.weights_bytes


@pytest.mark.slow
def test_a_part_that_dies_ends_the_walk_with_a_reason(tiny: Path) -> None:
    class Killer(Log):
        def batch(self, requests: Sequence[Request], t_ns: int) -> None:
            super().batch(requests, t_ns)
            if len(self.batches) == 2:
                os.kill(children()[0].pid, signal.SIGKILL)

    config = configured(tiny, num_processes=2, tp_plan="auto")
    with (
        pytest.raises(BackendError, match=r"process 2 of 2 died of signal 9 \(SIGKILL\)"),
        PytorchBackend().open(config) as session,
    ):
        session.generate(asked([4, 5, 6], output=8), Killer())
    assert children() == []


@pytest.mark.parametrize(
    ("options", "also", "part"),
    [
        ({"tp_plan": "auto"}, {}, "num_processes, which is 1; --set pytorch.num_processes=2"),
        ({"tp_plan": "auto", "num_processes": 3}, {}, "4 heads and 2 for keys and values, which 3"),
        ({"tp_plan": "auto", "num_processes": 2}, {"precision": "int8"}, "precision int8; leave one"),
        ({"tp_plan": "auto", "num_processes": 2, "compile": True}, {}, "with pytorch.tp_plan; --set"),
        ({"tp_plan": "auto", "num_processes": 2, "prompt_lookup_num_tokens": 2}, {}, "leave one of them out"),
        ({"num_processes": 2, "device": "auto", "device_map": "auto"}, {}, "num_processes has one each"),
        ({"num_processes": 2, "device": "mps"}, {}, "an Apple GPU is one device"),
    ],
)
def test_what_processes_can_not_share_is_refused_with_a_way_out(
    tiny: Path, options: dict[str, Any], also: dict[str, Any], part: str
) -> None:
    why = PytorchBackend().why_refused(configured(tiny, also=also, **options))
    assert why is not None
    assert part in str(why)


def test_random_weights_are_not_split(tiny: Path) -> None:
    error = opening(configured(f"random:{tiny}", num_processes=2, tp_plan="auto"))
    assert "makes its weights" in error.message


def test_more_processes_than_batches_are_refused_where_the_file_is_read(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"3 processes take a batch of 2 each, and n is 4; lower"):
        configured(tiny, n=4, batch_size=2, num_processes=3)
    assert isinstance(configured(tiny, n=4, batch_size=2, num_processes=2), ExperimentConfig)
