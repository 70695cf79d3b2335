"""What somebody's own script gets, on simulated boards and on none, and what it survives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from benchmarks.boards.scenario import Board, Change
from own_scripts import BOARD, codes, environ, gone_within_s, named, recorders, result_of, run, start, truth_j

from llenergymeasure.cli.list import entries
from llenergymeasure.cli.recompute import recompute
from llenergymeasure.energy.recording.trace import read_trace
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.notebook import load_ipython_extension
from llenergymeasure.measure.own_code import Monitor
from llenergymeasure.results.windows import WindowsResult

HEAD = """
import json, os, sys, time
from llenergymeasure import Monitor

def show(m):
    print(json.dumps(m.result.as_json()))
"""


def test_windows_nest_and_repeat_and_their_tokens_add_up(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor() as m:
    with m.window("all"):
        for number in range(4):
            with m.window("part") as w:
                time.sleep(0.05)
                w.tokens(prompt=3)
                w.tokens(prompt=2, output=7)
show(m)
""",
        )
    )
    part, whole = named(result, "part"), named(result, "all")
    assert (part["count"], whole["count"]) == (4, 1)
    assert (part["prompt_tokens"], part["output_tokens"]) == (20, 28)
    assert part["duration_s"] < whole["duration_s"]
    assert 0.2 <= part["duration_s"] < 2.0
    assert whole["prompt_tokens"] is None
    assert "no tokens were stated" in whole["per_output_token"]["reason"]
    assert [one["output_tokens"] for one in part["occurrences"]] == [7] * 4


def test_a_block_on_a_board_is_known_as_well_as_one_of_a_run(tmp_path: Path) -> None:
    busy = Board(
        uuid="GPU-a",
        idle_w=80.0,
        power=(Change("square", 5.0, 7.0, given={"levels_w": (300.0, 120.0), "period_s": 0.37}),),
    )
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
began_ns = json.load(open("scenario.json"))["start_ns"]
with Monitor(gpus="all", meter="nvml") as m:
    with m.block("work"):
        while time.monotonic_ns() < began_ns + 7_400_000_000:
            time.sleep(0.01)
show(m)
""",
            boards=[busy],
        )
    )
    block = named(result, "work")
    (one,) = block["occurrences"]
    truth = truth_j(tmp_path, one["start_ns"], one["end_ns"])
    assert (block["silent"], result["boundary"], result["method"]) == (True, "gpu", "counter")
    assert block["energy"]["low"] <= truth <= block["energy"]["high"]
    if one["start_ns"] < json.loads((tmp_path / "scenario.json").read_text())["start_ns"] + 5e9:
        # Else the machine was too busy to begin before the board did, and its silence was none.
        assert one["energy_j"] == pytest.approx(truth, rel=0.02)


def test_many_short_windows_are_pooled_and_hold_the_truth(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor(gpus="all", meter="nvml") as m:
    for number in range(40):
        with m.window("short"):
            time.sleep(0.1)
        if number % 2:
            time.sleep(0.01)
show(m)
""",
            boards=[BOARD],
        )
    )
    short = named(result, "short")
    truth = sum(truth_j(tmp_path, one["start_ns"], one["end_ns"]) for one in short["occurrences"])
    assert short["energy"]["low"] <= truth <= short["energy"]["high"]
    assert short["energy"]["high"] - short["energy"]["low"] < truth
    assert all(one["energy_j"] is None for one in short["occurrences"])
    assert short["least_s"] > 0.5
    assert "window_too_short" in codes(result)


def test_it_works_as_a_decorator_in_tasks_and_in_threads(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
import asyncio, threading
with Monitor() as m:
    @m.window("plain")
    def plain(x): time.sleep(0.02); return x
    @m.window("task")
    async def task(x): await asyncio.sleep(0.3); return x
    async def both():
        async with m.window("outer"):
            return await asyncio.gather(*(task(x) for x in range(5)))
    assert [plain(x) for x in range(3)] == [0, 1, 2]
    assert asyncio.run(both()) == list(range(5))
    threads = [threading.Thread(target=plain, args=(1,)) for _ in range(4)]
    [one.start() for one in threads]; [one.join() for one in threads]
    w = m.window("handed over").start()
    other = threading.Thread(target=w.stop); other.start(); other.join()
show(m)
""",
        )
    )
    assert (named(result, "plain")["count"], named(result, "outer")["count"]) == (7, 1)
    task = named(result, "task")
    assert (task["count"], task["overlapping"]) == (5, 4)
    # Five at the same time take the time of one.
    assert task["duration_s"] < 1.2
    assert named(result, "handed over")["count"] == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_send_marks_through_the_recorder_of_their_parent(tmp_path: Path, method: str) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
import multiprocessing

def work(m, number):
    with m.window("child") as w:
        time.sleep(0.05)
        w.tokens(output=number)

if __name__ == "__main__":
    processes = multiprocessing.get_context(sys.argv[1])
    with Monitor() as m:
        with m.window("parent"):
            children = [processes.Process(target=work, args=(m, number)) for number in (1, 2, 3)]
            [one.start() for one in children]; [one.join() for one in children]
        assert [one.exitcode for one in children] == [0, 0, 0]
    show(m)
""",
            arguments=[method],
        )
    )
    assert (named(result, "child")["count"], named(result, "child")["output_tokens"]) == (3, 6)
    assert named(result, "parent")["count"] == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_threads_of_a_child_mark_windows_at_once_and_none_is_lost(tmp_path: Path, method: str) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
import multiprocessing, threading

def work(m):
    start = threading.Barrier(8)
    def mark():
        start.wait()
        for _ in range(300):
            with m.window("thread"):
                pass
    threads = [threading.Thread(target=mark) for _ in range(8)]
    [one.start() for one in threads]; [one.join() for one in threads]

if __name__ == "__main__":
    processes = multiprocessing.get_context(sys.argv[1])
    with Monitor() as m:
        children = [processes.Process(target=work, args=(m,)) for _ in range(2)]
        [one.start() for one in children]; [one.join() for one in children]
    show(m)
""",
            arguments=[method],
        )
    )
    # More than what a pipe holds, from a child that ends at once.
    assert named(result, "thread")["count"] == 2 * 8 * 300
    assert "window_open" not in codes(result)


def test_a_fork_in_the_middle_of_a_window_changes_nothing_for_the_parent(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor() as m:
    with m.window("forked"):
        child = os.fork()
        time.sleep(0.1)
    if child == 0:
        with m.window("in the child"):
            pass
    else:
        assert os.waitpid(child, 0)[1] == 0
if child == 0:
    sys.exit(0)
show(m)
""",
        )
    )
    assert named(result, "forked")["count"] == 1
    assert named(result, "in the child")["count"] == 1
    assert "recorder_lost" not in codes(result)


def test_an_exception_inside_is_recorded_and_raised_again(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor() as m:
    try:
        with m.window("breaks"):
            raise KeyError("mine")
    except KeyError as error:
        assert error.args == ("mine",)
show(m)
""",
        )
    )
    broken = named(result, "breaks")
    assert (broken["count"], broken["failed"], broken["occurrences"][0]["error"]) == (1, 1, "KeyError")


def test_a_window_left_open_is_left_out_and_named(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor() as m:
    m.window("open").start()
    with m.window("closed"):
        pass
show(m)
""",
        )
    )
    assert [one["name"] for one in result["windows"]] == ["closed"]
    assert "window_open" in codes(result)


def test_a_window_of_no_length_has_no_energy_and_no_crash(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor(gpus="all", meter="nvml") as m:
    with m.window("nothing"):
        pass
show(m)
""",
            boards=[BOARD],
        )
    )
    nothing = named(result, "nothing")
    assert (nothing["count"], nothing["energy"]["value"]) == (1, None)
    assert nothing["energy"]["reason"]


def test_misuse_is_an_error_that_names_the_window() -> None:
    with Monitor() as monitor:
        window = monitor.window("twice")
        with window, pytest.raises(ConfigError, match=r"twice.*open already"):
            window.start()
        with pytest.raises(ConfigError, match=r"twice.*not open"):
            window.stop()
        with pytest.raises(ConfigError, match="name is a text"), monitor.window(""):
            pass
        with pytest.raises(ConfigError, match="at least 0"), monitor.window("tokens") as counted:
            counted.tokens(output=-1)
        for name in ("two\nlines", "\x1b[31mred", "\ud800"):
            with pytest.raises(ConfigError, match="no line breaks"), monitor.window(name):
                pass
        with pytest.raises(ConfigError, match="generator"):

            @monitor.window("yields")
            def _yields() -> Iterator[int]:
                yield 1

        with pytest.raises(ConfigError, match="not ended"):
            _ = monitor.result
        with pytest.raises(ConfigError, match="once"):
            monitor.start()
    with pytest.raises(ConfigError, match="has ended"), monitor.window("late"):
        pass
    assert {one.name: one.count for one in monitor.result.windows} == {"twice": 1, "tokens": 1}
    with pytest.raises(ConfigError, match="not running"), Monitor().window("early"):
        pass


def test_a_cell_of_a_notebook_that_awaits_is_refused_before_it_runs() -> None:
    magics: dict[str, Callable[[str, str], object]] = {}

    class Shell:
        transform_cell = staticmethod(str.strip)
        should_run_async = staticmethod(lambda cell, transformed_cell: "await" in transformed_cell)

        def register_magic_function(self, function: Callable[[str, str], object], **_: str) -> None:
            magics["llem"] = function

    async def kernel() -> None:
        magics["llem"]("", "await something()")

    load_ipython_extension(Shell())
    with pytest.raises(ConfigError, match="awaits"):
        asyncio.run(kernel())


def test_two_at_once_on_a_board_are_refused_or_flagged(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
from llenergymeasure import PreFlightError
with Monitor(gpus="all") as first:
    try:
        Monitor(gpus="all").start()
    except PreFlightError as error:
        assert "shared=True" in error.hint, error.hint
    else:
        raise SystemExit("the second was not refused")
    with Monitor(gpus="all", shared=True) as m:
        with m.window("x"):
            time.sleep(0.1)
show(m)
""",
            boards=[BOARD],
        )
    )
    assert "device_shared" in codes(result)


def test_no_meter_at_all_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
from llenergymeasure import EnergyError
for wanted in ({"meter": "nvml"}, {"require_measured": True}, {"meter": "wattmeter"}):
    try:
        Monitor(**wanted).start()
    except EnergyError as error:
        print("refused", error)
""",
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["refused"] * 3


def test_gpus_that_the_program_does_not_use_are_not_counted(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor(meter="nvml") as m:
    with m.block("x"):
        time.sleep(1.1)
show(m)
""",
            boards=[BOARD],
        )
    )
    assert (result["readings"], result["valid"]) == ([], False)
    assert 'gpus="all"' in named(result, "x")["energy"]["reason"]


def test_a_recorder_that_dies_leaves_the_program_alone_and_keeps_what_it_saw(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
import signal
import subprocess
import sys
with Monitor(output_dir="out", gpus="all", meter="nvml") as m:
    with m.window("before"):
        time.sleep(2.0)
    time.sleep(2.0)
    os.kill(m._process.pid, signal.SIGKILL)
    time.sleep(0.2)
    for number in range(3):
        with m.window("after"):
            pass
    with m.block("after too"):
        pass
show(m)
""",
        boards=[BOARD],
    )
    result = result_of(done)
    assert [one["name"] for one in result["windows"]] == ["before"]
    before = named(result, "before")
    (one,) = before["occurrences"]
    assert before["energy"]["value"] == pytest.approx(
        truth_j(tmp_path, one["start_ns"], one["end_ns"]), rel=0.3
    )
    assert "recorder_lost" in codes(result)
    assert done.stderr.count("the recorder has ended") == 1
    (folder,) = (tmp_path / "out").iterdir()
    assert WindowsResult.load(folder).as_json() == result


@pytest.mark.parametrize("written", ["nothing", "an empty trace", "no events"])
def test_a_recorder_that_dies_before_it_has_written_leaves_the_program_alone(
    tmp_path: Path, written: str
) -> None:
    done = run(
        tmp_path,
        HEAD
        + f"""
import pathlib, signal
written = {written!r}
with Monitor(output_dir="out", meter="estimate") as m:
    with m.window("before"):
        pass
    until = time.monotonic() + 10
    folder = pathlib.Path(m._ready["folder"])
    while b'"end"' not in (folder / "events.jsonl").read_bytes() and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(m._process.pid, signal.SIGKILL)
    m._process.wait()
    (folder / "power.arrow").unlink(missing_ok=True)
    if written == "an empty trace":
        (folder / "power.arrow").touch()
    if written == "no events":
        (folder / "events.jsonl").write_bytes(b"")
    with m.window("after"):
        pass
print("the program goes on", file=sys.stderr)
show(m)
""",
    )
    assert done.stderr.count("windows from here on are not measured") == 1
    assert "the program goes on" in done.stderr
    if written == "no events":
        assert "is not the events of a recording: it is empty" in done.stderr
        return
    result = result_of(done)
    assert [one["name"] for one in result["windows"]] == ["before"]
    assert "before it had written" in named(result, "before")["energy"]["reason"]
    assert (result["valid"], "recorder_lost" in codes(result)) == (False, True)
    (folder,) = (tmp_path / "out").iterdir()
    assert WindowsResult.load(folder).as_json() == result
    recompute(folder, save=False, as_json=False, verbose=False)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_script_that_is_killed_leaves_its_trace_and_no_recorder(tmp_path: Path, how: int) -> None:
    process = start(
        tmp_path,
        HEAD
        + """
with Monitor(output_dir="out", gpus="all", meter="nvml") as m:
    with m.window("whole"):
        time.sleep(1.5)
    w = m.window("broken off").start()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
""",
        boards=[BOARD],
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert recorders(tmp_path)
    process.send_signal(how)
    process.wait()
    try:
        # Within 1 s where this machine is idle; a loaded one takes its time to start anything.
        assert gone_within_s(tmp_path, 20.0) is not None
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()
    (folder,) = (tmp_path / "out").iterdir()
    result = WindowsResult.load(folder).as_json()
    assert named(result, "whole")["count"] == 1
    assert "window_open" in codes(result)
    trace = read_trace(folder / "power.parquet")
    assert trace.series["gpu:GPU-a", "energy"].raw.size > 10


def test_nothing_heavy_is_imported_and_nothing_is_left_without_a_folder(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
heavy = {"torch", "pyarrow", "numpy"}
before = heavy & set(sys.modules)
fds = len(os.listdir("/proc/self/fd"))
with Monitor() as m:
    with m.window("x"):
        pass
    folder = m._ready["folder"]
with Monitor(output_dir="out") as kept:
    with kept.window("x"):
        pass
print(sorted((heavy & set(sys.modules)) - before))
print(folder)
del m
import gc; gc.collect()
time.sleep(0.5)
print(len(os.listdir("/proc/self/fd")) - fds)
""",
    )
    assert done.returncode == 0, done.stderr
    imported, folder, more_fds = done.stdout.splitlines()
    assert (imported, more_fds) == ("[]", "0")
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 1
    assert gone_within_s(tmp_path, 20.0) is not None
    assert not Path(folder).exists()


def test_a_result_is_kept_shown_and_computed_again(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
from llenergymeasure.cli import app
with Monitor(output_dir="out", gpus="all", meter="nvml") as m:
    with m.window("x") as w:
        time.sleep(1.2)
        w.tokens(output=5)
(folder,) = os.listdir("out")
for command in (["show", "--json"], ["show"], ["recompute"]):
    app([*command, f"out/{folder}"], standalone_mode=False)
""",
        boards=[BOARD],
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert {one.name for one in folder.iterdir()} == {"result.json", "power.parquet", "events.jsonl"}
    stored = json.loads((folder / "result.json").read_text())
    shown, end = json.JSONDecoder().raw_decode(done.stdout)
    assert shown == stored
    assert stored["kind"] == "windows"
    assert "x: 1 window" in done.stdout[end:]
    assert "values are the same" in done.stdout[end:]


def test_a_busy_program_is_charged_its_own_work_and_not_the_recorders(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
with Monitor(meter="estimate") as m:
    before = time.process_time()
    with m.window("busy"):
        while time.process_time() - before < 1.0:
            pass
    with m.window("idle"):
        time.sleep(1.0)
show(m)
""",
        )
    )
    busy, idle = named(result, "busy"), named(result, "idle")
    model = next(one for one in result["readings"] if one["domain"] == "host")
    assert model["method"] == "modelled"
    assert busy["energy"]["value"] > 10 * idle["energy"]["value"]


def test_any_program_may_mark_windows_by_lines_on_stdin(tmp_path: Path) -> None:
    record = [sys.executable, "-m", "llenergymeasure", "record", "-o", "out"]
    with subprocess.Popen(
        record,
        env=environ(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as recorder:
        assert recorder.stdin is not None
        assert recorder.stdout is not None
        hello, ready = (json.loads(recorder.stdout.readline()) for _ in range(2))
        assert (hello["say"], hello["version"], ready["say"]) == ("hello", 2, "ready")
        t_ns = ready["t_ns"] + 1
        marks = [
            {"do": "begin", "id": "1", "name": "theirs", "t_ns": t_ns},
            {"do": "end", "id": "1", "t_ns": t_ns, "prompt": 2, "output": 3},
            {"do": "no such thing"},
        ]
        recorder.stdin.writelines(json.dumps(mark) + "\n" for mark in marks)
        # Its end is heard by the end of its input as well as by stop.
        out, _ = recorder.communicate(timeout=60)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [one["say"] for one in answers] == ["unknown", "done"]
    theirs = named(answers[-1]["result"], "theirs")
    assert (theirs["prompt_tokens"], theirs["output_tokens"]) == (2, 3)
    assert WindowsResult.load(answers[-1]["folder"]).as_json() == answers[-1]["result"]
    refused = subprocess.run(
        [*record, "--meter", "nvml"], env=environ(tmp_path), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert json.loads(refused.stdout.splitlines()[-1])["error"] == "EnergyError"


def test_thousands_of_windows_are_counted_and_not_listed_one_by_one() -> None:
    with Monitor(meter="estimate") as monitor:
        for _ in range(2000):
            with monitor.window("x"):
                pass
    assert monitor.result.windows[0].count == 2000
    assert monitor.result.windows[0].occurrences == ()


def test_of_many_names_those_that_cost_most_are_shown() -> None:
    with Monitor(meter="estimate") as monitor:
        for number in range(80):
            with monitor.window(f"idle {number}"):
                pass
        with monitor.window("busy"):
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
    text = str(monitor.result)
    assert len(monitor.result.windows) == 81
    assert "busy: 1 window" in text
    assert sum(f"idle {number}:" in text for number in range(80)) == 49


def test_a_recorder_that_lags_behind_is_waited_for_at_the_end(tmp_path: Path) -> None:
    result = result_of(
        run(
            tmp_path,
            HEAD
            + """
import signal, threading
m = Monitor()
with m:
    recorder = m._process.pid
    os.kill(recorder, signal.SIGSTOP)
    for _ in range(9000):  # marks that its pipe does not hold
        with m.window("many"):
            pass
    threading.Timer(1.5, os.kill, (recorder, signal.SIGCONT)).start()
show(m)
""",
        )
    )
    assert named(result, "many")["count"] == 9000


def test_a_disk_that_is_full_is_named_and_the_program_goes_on(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
import resource
from llenergymeasure.exceptions import ResultError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with Monitor(output_dir="out") as m:
    for _ in range(500):
        with m.window("many"):
            pass
try:
    m.result
except ResultError as error:
    print(error)
""",
    )
    assert done.returncode == 0, done.stderr
    for told in (done.stdout, done.stderr):
        assert told.count("events.jsonl: File too large") == 1
        assert "None" not in told


def test_what_a_killed_recorder_left_is_listed_and_computed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        HEAD
        + """
import signal
with Monitor(output_dir="out") as m:
    for _ in range(20):
        with m.window("before"):
            time.sleep(0.1)
    time.sleep(1.2)
    os.kill(m._process.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.returncode == -signal.SIGKILL
    (entry,) = entries(tmp_path / "out")
    # The kernel takes a moment to close what a killed process had open.
    until = time.monotonic() + 5
    while entry.state == "running" and time.monotonic() < until:
        time.sleep(0.05)
        (entry,) = entries(tmp_path / "out")
    assert (entry.kind, entry.state) == ("windows", "unfinished")
    (folder,) = (tmp_path / "out").iterdir()
    recompute(folder, save=False, as_json=True, verbose=False)
    recompute(folder, save=True, as_json=True, verbose=False)
    (entry,) = entries(tmp_path / "out")
    assert (entry.state, entry.what.partition(" of ")[0]) == ("done", "20 windows")
    result = WindowsResult.load(folder.with_suffix(""))
    assert "recorder_lost" in {one.code for one in result.warnings}


def test_a_child_that_is_gone_at_once_is_charged_its_window(tmp_path: Path) -> None:
    script = """
with Monitor(meter="estimate") as m:
    for _ in range(4):
        pid = os.fork()
        if not pid:
            with m.window("child"):
                while time.process_time() < 0.2:
                    pass
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.1)
show(m)
"""
    child = named(result_of(run(tmp_path, HEAD + script)), "child")
    joules = sorted(one["energy_j"] for one in child["occurrences"])
    # a busy machine may read one boundary late, and no more than one of the four times
    assert joules[0] > 0.3 * joules[-1]
    assert joules[1] > 0.7 * joules[-1]


def test_a_program_that_asks_for_no_result_leaves_no_recorder_and_no_files(tmp_path: Path) -> None:
    script = """
import sys
with Monitor(meter="estimate") as m:
    with m.window("x"):
        pass
print(m._process.pid)
"""
    here = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script], env=here, capture_output=True, text=True, check=True
    )
    until = time.monotonic() + 10
    while time.monotonic() < until and (psutil.pid_exists(int(done.stdout)) or any(tmp_path.iterdir())):
        time.sleep(0.02)
    assert not psutil.pid_exists(int(done.stdout))
    assert list(tmp_path.iterdir()) == []


def test_marks_may_come_from_a_file(tmp_path: Path) -> None:
    marks = tmp_path / "marks.jsonl"
    marks.write_text('{"do": "begin", "id": "1", "name": "early", "t_ns": 1}\nno mark\n{"do": "stop"}')
    with marks.open() as lines:
        done = subprocess.run(
            [sys.executable, "-m", "llenergymeasure", "record"],
            env=environ(tmp_path),
            stdin=lines,
            capture_output=True,
            text=True,
            check=False,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["say"] for one in answers] == ["hello", "ready", "unknown", "done"]
    assert answers[2]["why"].startswith("Invalid JSON")
    (one,) = [one for one in answers[3]["result"]["warnings"] if one["code"] == "window_open"]
    assert one["message"] == "early: the recording ended before 1 window did: it is left out"


def test_a_process_that_is_not_there_is_not_recorded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "record", "--pid", "99999999"],
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no process 99999999" in done.stderr


@pytest.mark.parametrize("count", [-1, 1.5, "many"])
def test_tokens_are_whole_numbers(count: object) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        Monitor().window("some").tokens(output=count)  # type: ignore[arg-type]
