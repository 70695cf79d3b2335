"""A load runs by itself, windows cut from it add up to the whole, and no request is unaccounted for."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_process import stub_server, told

from llenergymeasure.backends import SoFar
from llenergymeasure.backends.openai import OpenaiBackend
from llenergymeasure.backends.openai.load import RunningLoad, drive
from llenergymeasure.backends.openai.session import OpenaiSession
from llenergymeasure.backends.openai.stream import Reply
from llenergymeasure.backends.openai.tally import Tally
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.measure.bench import Position
from llenergymeasure.measure.load import warm_up
from llenergymeasure.measure.protocol import WarmUpBatch
from llenergymeasure.records import Completion, Generation, Request, Served
from llenergymeasure.workload.arrivals import Arrival, arrivals

pytest.importorskip("aiohttp", reason="the extra openai is not installed")

MODEL = "random:llama-3.2-1b"
CLOSED = {"concurrency": 4}


def config(url: str = "http://h:1", **changes: Any) -> ExperimentConfig:
    fields = {"model": MODEL, "backend": "openai", "n": 8, "max_output_tokens": 8, "load": CLOSED}
    return ExperimentConfig.model_validate(fields | {"openai": {"base_url": url}} | changes)


def asked(count: int = 8, *, tokens: int = 8) -> list[Request]:
    return [Request(index, tuple(range(3 + index)), tokens, True) for index in range(count)]


@contextmanager
def running(
    url: str, count: int | None = None, **changes: Any
) -> Iterator[tuple[OpenaiSession, RunningLoad]]:
    """A load of so many requests, or without an end."""
    asked_for = config(url, **changes)
    assert asked_for.load is not None
    with OpenaiBackend().open(asked_for) as session:
        plan = arrivals(asked_for.load, asked(), seed=42)
        with session.serve(plan if count is None else islice(plan, count), Position()) as load:
            yield session, load


def accounted(session: OpenaiSession) -> dict[str, int]:
    """Requests alone, without their tokens."""
    counts = asdict(session.account())
    assert counts["sent"] == counts["answered"] + counts["failed"] + counts["cancelled"]
    return {name: count for name, count in counts.items() if not name.endswith("_tokens")}


def in_seconds(*seconds: float) -> list[int]:
    now_ns = time.monotonic_ns()
    return [now_ns + round(one * 1e9) for one in seconds]


def wait_for(load: RunningLoad, ended: int) -> None:
    while load.so_far().ended < ended:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"tokens_per_chunk": 3},
        {"usage": "none"},
        {"events_per_write": 4, "splits": True},
        {"refuse_every": 7},
        {"refuse_every": 7, "refuse_status": 503},
        {"break_after": 5, "break_how": "cut", "usage": "every"},
    ],
)
def test_windows_add_up_to_what_the_server_counts(behaviour: dict[str, Any]) -> None:
    with stub_server(first_s=0.15, each_s=0.02, **behaviour) as url, running(url, 40) as (session, load):
        before = told(url)["counts"]
        load.cut(in_seconds(0.05, 0.4, 0.8, 600))
        wait_for(load, 40)
        load.drain()
        counts, seen = told(url)["counts"], accounted(session)
        if "break_after" in behaviour:
            with pytest.raises(BackendError, match="all 40 requests failed"):
                load.windows()
            return
        found = load.windows()
    served = [served for _, served in found]
    done = [one for generation, _ in found for one in generation.completions]
    # one token was asked for before the load, to find out in which form
    assert sum(one.output_tokens for one in served) == counts["generation_tokens"] - before.get(
        "generation_tokens", 0
    )
    assert sum(one.prompt_tokens for one in served) == counts["prompt_tokens"] - before["prompt_tokens"]
    assert len(done) == 40
    # the first of each user was sent before the first window
    assert sum(one.sent for one in served) == 36
    assert seen["sent"] == counts["received"]
    assert seen["failed"] == counts.get("refused", 0) == sum(one.finish == "error" for one in done)
    assert all(one.output_tokens > 0 for one in served)
    assert {one.in_flight_most for one in served[:2]} == {4}
    assert served[0].in_flight_mean == pytest.approx(4, abs=0.5)


def test_a_load_goes_on_between_the_windows_and_drains_after_them() -> None:
    with stub_server(first_s=0.1, each_s=0.02) as url, running(url) as (session, load):
        time.sleep(0.5)
        edges = in_seconds(0.1, 0.6, 1.1)
        load.cut(edges)
        for edge in edges:
            load.wait(edge)
        load.drain()
        windows = load.windows()
        seen, counts = accounted(session), told(url)["counts"]
    assert seen["sent"] == seen["answered"] == counts["received"] == counts["answered"]
    for (generation, served), (start, end) in zip(windows, pairwise(edges), strict=True):
        assert generation.completions
        assert all(start <= one.t_end_ns < end for one in generation.completions)
        # those that began before the window and ended in it are whole, and their tokens are not all in it
        assert any(one.t_sent_ns < start for one in generation.completions)
        assert all(one.output_tokens == 8 for one in generation.completions)
        assert 0 < served.output_tokens < served.in_flight_most * 8 * 500 / 240 * 2


@given(st.data())
def test_a_tally_keeps_every_token_and_every_moment(data: st.DataObject) -> None:
    moments = st.integers(0, 999)
    tally = Tally([0, 250, 400, 1000])
    requests = []
    for _ in range(data.draw(st.integers(1, 12))):
        sent, *chunks = sorted(data.draw(st.lists(moments, min_size=2, max_size=8)))
        tokens = data.draw(st.integers(0, 30))
        is_cancelled = data.draw(st.booleans())
        done = Completion(0, 0, 0, 5, tokens, sent, sent, chunks[0], chunks[-1], "length")
        tally.add(done, chunks, is_cancelled=is_cancelled)
        requests.append((done, chunks, is_cancelled))
    found = tally.windows()
    served = [one for _, one in found]
    assert sum(one.output_tokens for one in served) == sum(done.output_tokens for done, _, _ in requests)
    assert sum(one.prompt_tokens for one in served) == 5 * len(requests)
    assert sum(one.chunks for one in served) == sum(len(chunks) for _, chunks, _ in requests)
    gaps = [right - left for _, chunks, _ in requests for left, right in pairwise(chunks)]
    assert sum(count for one in served for _, count in one.gaps) == len(gaps)
    assert [one for generation, _ in found for one in generation.completions if one.t_end_ns < 250] == [
        done for done, _, is_cancelled in requests if done.t_end_ns < 250 and not is_cancelled
    ]
    waited = sum(
        one.in_flight_mean * (end - start)
        for one, (start, end) in zip(served, [(0, 250), (250, 400), (400, 1000)], strict=True)
    )
    assert waited == pytest.approx(sum(done.t_end_ns - done.t_sent_ns for done, _, _ in requests))
    steps = sorted(
        [(done.t_sent_ns, 1) for done, _, _ in requests] + [(done.t_end_ns, -1) for done, _, _ in requests]
    )
    assert max(one.in_flight_most for one in served) == max(accumulate(step for _, step in steps))


def test_tokens_of_a_bundle_fall_into_the_window_in_which_it_came() -> None:
    tally = Tally([100, 200, 300])
    done = Completion(3, 0, 0, 7, 10, 50, 50, 90, 290, "length")
    tally.add(done, [90, 150, 250, 290], is_cancelled=False)
    (_, first), (ended, second) = tally.windows()
    # 10 tokens over 4 chunks: 2, 3, 2, 3
    assert (first.output_tokens, second.output_tokens) == (3, 5)
    assert (first.prompt_tokens, second.prompt_tokens) == (0, 0)
    assert [one.index for one in ended.completions] == [3]
    assert (first.in_flight_mean, second.in_flight_mean) == (1.0, 0.9)


def sent_by(
    load: dict[str, Any], plan: Sequence[Arrival], *, takes_s: float = 0.0
) -> list[tuple[int, int, int]]:
    """The number of each arrival, and when it was due and sent, in ms from the start."""
    start_ns, found = time.monotonic_ns(), []

    async def send(arrival: Arrival, due_ns: int) -> None:
        now_ns = time.monotonic_ns()
        found.append((arrival.number, (due_ns - start_ns) // 10**6, (now_ns - start_ns) // 10**6))
        await asyncio.sleep(takes_s)

    asyncio.run(drive(LoadConfig(**load), iter(plan), send))
    return found


def test_requests_are_sent_when_they_are_due_whatever_the_server_does() -> None:
    plan = [Arrival(number, asked()[0], 0.05 * number) for number in range(8)]
    found = sent_by({"arrivals": "constant", "rate": 20}, plan, takes_s=0.3)
    assert [number for number, _, _ in found] == list(range(8))
    assert [due for _, due, _ in found] == pytest.approx([50 * number for number in range(8)], abs=25)
    assert all(sent >= due for _, due, sent in found)


def test_a_user_takes_a_whole_conversation_and_thinks_before_each_further_turn() -> None:
    request = asked()[0]
    plan = [
        Arrival(0, request, None),
        Arrival(1, request, None, after=0, think_s=0.1),
        Arrival(2, request, None),
        Arrival(3, request, None, after=2, think_s=0.1),
    ]
    found = sent_by({"concurrency": 2}, plan, takes_s=0.05)
    assert [number for number, _, _ in found][:2] == [0, 2]
    assert all(sent >= due >= 150 for number, due, sent in found if number in {1, 3})


def test_a_user_thinks_between_its_requests_but_not_before_the_first() -> None:
    plan = [Arrival(number, asked()[0], None, think_s=0.2) for number in range(3)]
    (_, first, _), (_, second, _), (_, third, _) = sent_by({}, plan)
    assert first < 150 <= second - first
    assert third - second >= 200


def test_what_can_t_be_reached_ends_the_load_and_all_is_accounted_for() -> None:
    with stub_server(first_s=0.05, each_s=0.01, dies_at=30) as url, running(url) as (session, load):
        with pytest.raises(BackendError, match="nothing answers"):
            load.wait(in_seconds(60)[0])
        seen = accounted(session)
    assert seen["sent"] >= 30
    assert seen["failed"] > 0


def test_one_answer_to_each_prompt_is_counted_again_when_all_is_over() -> None:
    async def answer(arrival: Arrival, reply: Reply) -> None:
        await asyncio.sleep(0.01)
        reply.texts, reply.chunk_ns, reply.finish = ["four"], [time.monotonic_ns()], "stop"
        reply.close(time.monotonic_ns())

    def settle(arrival: Arrival, reply: Reply, due_ns: int) -> Completion:
        walk, index = divmod(arrival.number, 8)
        return Completion(index, walk, 0, 1, 4, due_ns, reply.sent_ns, reply.first_ns, reply.end_ns, "eos")

    loop = asyncio.new_event_loop()
    plan = arrivals(LoadConfig(**CLOSED), asked(), seed=1)
    load = RunningLoad(LoadConfig(**CLOSED), plan, loop=loop, post=answer, settle=settle, count=len)
    with load.running():
        load.cut(in_seconds(0.0, 60))
        wait_for(load, 40)
        load.drain()
    loop.close()
    ((generation, served),) = load.windows()
    counted = [one.index for one in generation.completions if one.local_output_tokens == 4]
    assert sorted(counted) == list(range(8))
    assert served.output_tokens == 4 * len(generation.completions) >= 160


def test_the_answers_that_are_kept_fall_into_a_window() -> None:
    with stub_server(each_s=0.001) as url, running(url) as (_, load):
        # Each prompt is answered before the first window too, and after the last.
        load.cut(in_seconds(0.4, 1.4, 2.4))
        load.wait(in_seconds(2.6)[0])
        load.drain()
        windows = [generation for generation, _ in load.windows()]
    kept = [
        one.index
        for generation in windows
        for one, text in zip(generation.completions, generation.texts or (), strict=True)
        if text is not None
    ]
    assert sorted(kept) == list(range(8))


def test_leaving_cancels_what_is_on_its_way() -> None:
    with stub_server(break_after=1, break_how="stall") as url:
        with running(url) as (session, load):
            while told(url)["counts"]["received"] < 5:
                time.sleep(0.01)
        assert accounted(session) == {"sent": 5, "answered": 1, "failed": 0, "cancelled": 4}
        assert load.so_far().ended == 4


def test_a_trace_that_is_over_before_the_windows_is_no_measurement() -> None:
    with stub_server() as url, running(url, 3) as (_, load):
        load.cut(in_seconds(0.05, 0.3))
        with pytest.raises(BackendError, match="the last request of the trace"):
            load.wait(in_seconds(60)[0])


def test_a_load_that_nobody_answers_is_no_load() -> None:
    with stub_server(break_after=1, break_how="event") as url, running(url) as (_, load):
        wait_for(load, 8)
        with pytest.raises(BackendError, match="requests failed"):
            load.cut(in_seconds(1, 2))


class Played:
    """A load on virtual time, whose rate and requests on their way follow functions of the seconds."""

    def __init__(self, rate: Any, waiting: Any) -> None:
        self.rate, self.waiting = rate, waiting
        self.t_ns = self.chunks = self.in_flight_ns = 0

    def so_far(self) -> SoFar:
        return SoFar(self.t_ns, round(self.chunks), round(self.chunks / 10), self.in_flight_ns)

    def wait(self, until_ns: int) -> None:
        step_ns = until_ns - self.t_ns
        self.chunks += self.rate(self.t_ns / 1e9) * step_ns / 1e9
        self.in_flight_ns += round(self.waiting(self.t_ns / 1e9) * step_ns)
        self.t_ns = until_ns

    def cut(self, edges_ns: Sequence[int]) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        raise NotImplementedError

    def windows(self) -> Sequence[tuple[Generation, Served]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("rate", "waiting", "steady", "least_s", "most_s"),
    [
        (lambda _: 1000.0, lambda _: 4.0, True, 2.5, 4.0),
        (lambda t: 1000.0 * min(1, t / 8), lambda _: 4.0, True, 9.0, 20.0),
        (lambda t: 1000.0 + 100 * t, lambda _: 4.0, False, 30.0, 30.3),
        (lambda _: 1000.0, lambda t: 10 * t, False, 30.0, 30.3),
        (lambda t: 1000.0 if t < 1 else 0.0, lambda _: 4.0, False, 30.0, 30.3),
    ],
)
def test_a_load_is_warm_once_its_rate_and_those_that_wait_have_settled(
    rate: Any, waiting: Any, *, steady: bool, least_s: float, most_s: float
) -> None:
    heard: list[WarmUpBatch] = []
    found = warm_up(Played(rate, waiting), config(warmup={"max_seconds": 30}), heard.append)
    assert found.steady is steady
    assert least_s <= found.window.duration_s <= most_s
    assert found.rates[-1] == pytest.approx(rate(found.window.duration_s), rel=0.1)
    assert [one.number for one in heard] == sorted({one.number for one in heard})


def llem(url: str, folder: Path, *more: str, n: int = 8) -> list[str]:
    known = {"openai.base_url": url, "max_output_tokens": "8", "passes.count": "3", "passes.seconds": "1.0"}
    sets = (f"{key}={value}" for key, value in (known | dict(one.split("=", 1) for one in more)).items())
    return [
        *(sys.executable, "-m", "llenergymeasure", "run", "--backend", "openai", "--model", MODEL),
        *("--preset", "smoke", "-n", str(n), "--output", str(folder), "--json"),
        *(word for one in sets for word in ("--set", one)),
    ]


def result_of(url: str, folder: Path, *more: str, n: int = 8) -> Any:
    done = subprocess.run(
        llem(url, folder, *more, n=n), capture_output=True, check=False, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def codes(result: Any) -> set[str]:
    return {warning["code"] for warning in result["warnings"]}


def test_a_run_under_load_counts_what_the_server_counts(tmp_path: Path) -> None:
    with stub_server(first_s=0.04, each_s=0.02, refuse_every=20) as url:
        result = result_of(url, tmp_path, "load.concurrency=4")
        counts = told(url)["counts"]
    asked_for = result["session"]["requests"]
    assert asked_for["sent"] == counts["received"]
    assert asked_for["answered"] == counts["answered"]
    assert asked_for["failed"] == counts["refused"] > 0
    assert asked_for["cancelled"] == 0
    (run,) = result["runs"]
    edges = [(one["start_ns"], one["end_ns"]) for one in run["window"]["passes"]]
    assert [end - start for start, end in edges] == [10**9] * 3
    assert [end for _, end in edges[:2]] == [start for start, _ in edges[1:]]
    tokens, speed, energy = result["tokens"], result["performance"], result["energy"]
    assert tokens["pinned_ok"] is True
    assert tokens["failed"] > 0
    assert "requests_failed" in codes(result)
    assert speed["output_tokens_per_second"]["value"] == pytest.approx(tokens["output"] / 3)
    assert speed["requests_per_second"]["value"] == pytest.approx(tokens["requests"] / 3)
    assert speed["itl_s"]["p50"]["value"] >= 0.019
    assert speed["chunk_s"] is None
    assert speed["latencies_from"] == "sent"
    assert 3 < speed["in_flight_mean"] <= speed["in_flight_most"] == 4
    assert 0 < result["overhead"]["client_cpu_share"] < 1.5
    assert result["overhead"]["schedule_lag_p99_s"] is None
    assert energy["per_output_token"]["value"] * tokens["output"] == pytest.approx(energy["total"]["value"])
    assert energy["prefill"]["value"] is None
    server = result["server"]
    assert server["engine"] == "vllm"
    assert (server["requests"], server["other_requests"]) == (counts["answered"], 0)
    assert server["client"] == asked_for
    assert server["prompt_tokens"] == asked_for["prompt_tokens"] == counts["prompt_tokens"]
    assert server["output_tokens"] == asked_for["output_tokens"] == counts["generation_tokens"]
    assert not {"tokens_disputed", "server_shared", "prompts_cached"} & codes(result)
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "llenergymeasure",
            "recompute",
            str(tmp_path / result["experiment_id"]),
            "--json",
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert again.returncode == 0, again.stderr


def test_one_answer_to_each_prompt_of_a_running_load_is_judged(tmp_path: Path) -> None:
    records = [{"prompt": f"Question {at}?", "answer": "ö" if at < 3 else "zzz"} for at in range(4)]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    asked_for = (f"dataset.name={path}", "dataset.matcher=regex", "output_length=natural")
    with stub_server(each_s=0.005) as url:
        result = result_of(url, tmp_path, *asked_for, "load.concurrency=2", n=4)
    found = result["quality"]
    assert (found["prompts"], found["judged"], found["correct"]) == (4, 4, 3)
    assert result["tokens"]["requests"] > 4
    cost = result["energy"]["per_correct_answer"]["value"]
    assert cost == pytest.approx(result["energy"]["per_request"]["value"] / 0.75)


def test_bundled_chunks_have_a_latency_of_their_own(tmp_path: Path) -> None:
    with stub_server(first_s=0.02, each_s=0.01, tokens_per_chunk=4) as url:
        speed = result_of(url, tmp_path, "load.concurrency=2")["performance"]
    assert speed["itl_s"]["p50"]["value"] is None
    assert speed["itl_s"]["p50"]["reason"].startswith("bundled")
    assert speed["chunk_s"]["p50"]["value"] >= 0.039
    assert speed["tpot_s"]["p50"]["value"] >= 0.005


def test_answers_that_come_whole_have_no_time_between_tokens(tmp_path: Path) -> None:
    with stub_server(first_s=0.02, events_per_write=64) as url:
        speed = result_of(url, tmp_path, "load.concurrency=2")["performance"]
    for name, why in (("tpot_s", "all at once"), ("itl_s", "together with the one before")):
        assert speed[name]["p50"]["value"] is None
        assert why in speed[name]["p50"]["reason"]
    assert speed["chunk_s"] is None
    assert speed["ttft_s"]["p50"]["value"] >= 0.02


def test_a_load_that_outruns_the_server_is_not_steady(tmp_path: Path) -> None:
    with stub_server(first_s=0.1, slots=1) as url:
        result = result_of(url, tmp_path, "load={arrivals: constant, rate: 16}", "max_output_tokens=1")
    said = [warning["message"] for warning in result["warnings"] if warning["code"] == "not_steady"]
    assert any(message.startswith("requests arrive faster than they are answered") for message in said)
    speed = result["performance"]
    assert speed["latencies_from"] == "due"
    # from when they were due, those that end in the last windows have waited for seconds
    assert speed["e2e_s"]["p50"]["value"] > 1
    assert result["overhead"]["schedule_lag_p99_s"] is not None


def test_a_finite_load_sends_at_its_times_and_waits_for_every_answer(tmp_path: Path) -> None:
    with stub_server(first_s=0.02) as url:
        load = "load={arrivals: constant, rate: 16, finite: true}"
        result = result_of(url, tmp_path, load, "passes.count=2", "passes.seconds=0.1")
        counts = told(url)["counts"]
    (run,) = result["runs"]
    for one in run["window"]["passes"]:
        assert (one["end_ns"] - one["start_ns"]) / 1e9 >= 7 / 16
    assert result["tokens"]["requests"] == 16
    assert result["performance"]["latencies_from"] == "due"
    # a pass of prefill would last as long, and mostly wait
    assert result["energy"]["prefill"]["value"] is None
    assert "times of their own" in result["energy"]["prefill"]["reason"]
    # warm-up and passes alone
    assert result["server"]["requests"] == counts["answered"] == counts["received"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_window_cancels_what_is_on_its_way(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with stub_server(first_s=0.3) as url:
        words = llem(url, tmp_path, "load.concurrency=4", "passes.seconds=60", "passes.budget.seconds=600")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while told(url)["counts"].get("answered", 0) < 50:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        counts = told(url)["counts"]
    assert process.returncode == code
    assert counts["received"] == counts["answered"] + counts["cancelled"]
    sent, answered, failed, cancelled = account_in(said.decode())
    assert (sent, failed) == (answered + cancelled, 0)
    # what was on its way at the last moment, one side has and the other has not
    assert answered <= counts["answered"] <= answered + cancelled
    assert 0 <= sent - counts["received"] <= 4


def account_in(said: str) -> tuple[int, ...]:
    """Requests that were sent, answered, failed and cancelled, of the one line that says so."""
    (line,) = [line for line in said.splitlines() if "requests were sent" in line]
    return tuple(map(int, re.findall(r"\d+", line.replace(",", ""))))


INTERRUPTED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_running_load import accounted, running

with running(sys.argv[1]) as (session, load):
    try:
        load.wait(time.monotonic_ns() + 60 * 10**9)
    except KeyboardInterrupt:
        print(load.so_far().ended, flush=True)
counts = accounted(session)
print(counts["sent"], counts["answered"], counts["failed"], counts["cancelled"])
"""


def test_every_request_is_accounted_for_after_an_interrupt() -> None:
    with stub_server(first_s=0.3) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, url, str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        while told(url)["counts"].get("answered", 0) < 10:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        counts = told(url)["counts"]
    assert process.returncode == 0
    _, sent, answered, failed, cancelled = map(int, out.split())
    assert (sent, failed) == (answered + cancelled, 0)
    # what was on its way at the last moment, one side has and the other has not
    assert answered <= counts["answered"] <= answered + cancelled
    assert counts["answered"] >= 10
    assert 1 <= cancelled <= 4
    assert 0 <= sent - counts["received"] <= 4


def test_a_server_that_dies_under_load_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    stub = [sys.executable, "-m", "llenergymeasure.simulation.server", "--port", "{port}", "--behaviour"]
    command = json.dumps([*stub, json.dumps({"first_s": 0.02, "each_s": 0.01, "dies_at": 150})])
    words = llem("http://unused", tmp_path, "load.concurrency=4", f"openai.launch.command={command}")
    at = words.index("openai.base_url=http://unused")
    del words[at - 1 : at + 1]
    done = subprocess.run(words, capture_output=True, check=False, text=True, timeout=100)
    assert done.returncode == 1
    assert "the stub dies as asked" in done.stderr
    assert "Traceback" not in done.stderr


def test_earlier_repeats_are_kept_when_the_server_dies(tmp_path: Path) -> None:
    with stub_server(first_s=0.02, each_s=0.01, dies_at=200) as url:
        words = [
            one for one in llem(url, tmp_path, "load.concurrency=4", "repeats.count=4") if one != "--json"
        ]
        done = subprocess.run([*words, "--json"], capture_output=True, check=False, text=True, timeout=200)
    result = json.loads(done.stdout)
    outcomes = [run["outcome"] for run in result["runs"]]
    assert outcomes[0] == "measured"
    first = next(run for run in result["runs"] if run["outcome"] == "failed")
    sent, answered, failed, cancelled = account_in(first["reason"].partition(";")[2])
    assert sent == answered + failed + cancelled
    assert failed > 0


def test_connections_never_cap_a_load_in_silence(tmp_path: Path) -> None:
    with stub_server() as url:
        words = llem(url, tmp_path, "load.concurrency=200")
        limited = ["sh", "-c", 'ulimit -n 120; exec "$@"', "sh", *words]
        done = subprocess.run(limited, capture_output=True, check=False, text=True, timeout=100)
        counts = told(url)["counts"]
    assert done.returncode == 1
    assert "ulimit -n" in done.stderr
    # the one that finds out in which form
    assert counts["received"] == 1


def test_a_target_over_windows_and_too_many_users_of_a_finite_load_are_refused() -> None:
    with pytest.raises(ValueError, match=r"passes\.target"):
        config(passes={"target": 0.05}, repeats={"count": 1})
    with pytest.raises(ValueError, match=r"load\.concurrency 9"):
        config(load={"concurrency": 9, "finite": True})
    assert config(load={"concurrency": 9}).batch_size == 9
