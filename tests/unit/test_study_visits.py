"""How loads share a server: it stands for one repeat of all of them, and goes with the study."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import psutil
import pytest
from pydantic import JsonValue
from stub_process import stub_server, told
from test_backend_openai import STUB, processes
from virtual_study import planned

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.budget import RunCost
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import ledger
from llenergymeasure.study.executors import Ended
from llenergymeasure.study.ledger import Done, Failed
from llenergymeasure.study.run import How, run_plan
from llenergymeasure.study.task import Ending, Task, read_ending, read_task, write_ending, write_task


def study(marker: str, *, repeats: int = 3, **more: Any) -> dict[str, JsonValue]:
    behaviour = json.dumps({"model": marker, "first_s": 0.005})
    return {
        "model": "smollm2-135m",
        "backend": "openai",
        "n": 8,
        "max_input_tokens": 16,
        "max_output_tokens": 4,
        "dataset": {"name": "synthetic", "prompt_tokens": 4},
        "passes": {"seconds": 0.3, "count": 1, "prefill": 0},
        "warmup": {"min_batches": 0, "window": 3},
        "baseline": {"seconds": 0},
        "repeats": {"count": repeats},
        "openai": {"launch": {"command": [*STUB, "--behaviour", behaviour]}},
        "sweep": {"load.concurrency": [1, 2, 4]},
        **more,
    }


@dataclass
class Asking:
    """Asks the server of each run whether it is there, in place of measuring. `fault` may end that first, and
    say how the run fails.
    """

    fault: Callable[[Task, int], str | None] = lambda _task, _pid: None
    slots: int = 1
    where: str = "here"
    runs: list[tuple[int, int, int]] = field(default_factory=list)
    _done: list[Ended] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._done.clear()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        for path in tasks:
            task = read_task(path)
            assert task.by_url is not None
            assert task.config.load is not None
            options: Any = task.by_url.options
            assert options.launch is None
            port = int(options.base_url.rpartition(":")[2].removesuffix("/v1"))
            (pid,) = {
                one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port
                and one.status == psutil.CONN_LISTEN and one.pid
            }  # fmt: skip
            self.runs.append((task.config.load.concurrency, task.number, pid))
            why = self.fault(task, pid) or _why_silent(f"{options.base_url.removesuffix('/v1')}/health")
            run = task.folder / RUNS / str(task.number)
            if why is None:
                run.mkdir(parents=True)
                (run / "file").write_text(str(pid))
            cost = RunCost(1, 1.0, 1.0, 1.0)
            write_ending(path, Ending(cost) if why is None else Ending(kind="error", message=why))
            self._done.append(Ended(path, "ended"))

    def ended(self) -> list[Ended]:
        found, self._done = self._done, []
        return found


def _why_silent(url: str) -> str | None:
    try:
        urlopen(url, timeout=10).close()
    except OSError as error:
        return str(error)
    return None


def visited(
    content: dict[str, JsonValue], folder: Path, executor: Asking, *, resume: bool = False
) -> list[str]:
    remarks: list[str] = []
    run_plan(
        planned(content), folder, executor=executor, how=How(resume=resume), tell=lambda _: None,
        remark=remarks.append, visits=True,
    )  # fmt: skip
    return remarks


def marker() -> str:
    return f"visited-{time.monotonic_ns()}"


def gone(name: str) -> bool:
    until = time.monotonic() + 60
    while processes(name) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes(name)


def test_each_repeat_starts_a_server_and_visits_all_loads_in_another_order(tmp_path: Path) -> None:
    executor, name = Asking(), marker()
    visited(study(name), tmp_path, executor)
    visits = [executor.runs[at : at + 3] for at in (0, 3, 6)]
    for number, visit in enumerate(visits, start=1):
        assert {repeat for _, repeat, _ in visit} == {number}
        assert sorted(load for load, _, _ in visit) == [1, 2, 4]
    assert [len({pid for _, _, pid in visit}) for visit in visits] == [1, 1, 1]
    assert len({pid for _, _, pid in executor.runs}) == 3
    assert len({tuple(load for load, _, _ in visit) for visit in visits}) == 3
    assert gone(name)
    again = Asking()
    visited(study(name), tmp_path / "again", again)
    assert [run[:2] for run in again.runs] == [run[:2] for run in executor.runs]


def test_what_is_started_otherwise_is_another_server(tmp_path: Path) -> None:
    executor, name = Asking(), marker()
    sweep: JsonValue = {"load.concurrency": [1, 2], "openai.launch.ready_timeout_s": [60, 90]}
    visited(study(name, repeats=2, sweep=sweep), tmp_path, executor)
    pids = [pid for _, _, pid in executor.runs]
    assert len(pids) == 8
    assert [pids[at] == pids[at + 1] for at in range(0, 8, 2)] == [True] * 4
    assert len(set(pids)) == 4


def test_a_server_that_dies_fails_the_run_in_flight_and_the_next_load_gets_another(tmp_path: Path) -> None:
    name = marker()
    killed: list[int] = []

    def fault(task: Task, pid: int) -> str | None:
        if task.number == 2 and not killed:
            psutil.Process(pid).kill()
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
            killed.append(pid)
        return None

    executor = Asking(fault)
    remarks = visited(study(name, execution={"retries": 0}), tmp_path, executor)
    records = list(ledger.read(tmp_path))
    (failed,) = [one for one in records if isinstance(one, Failed)]
    assert (failed.kind, failed.repeat) == ("crash", 2)
    # What the server said last is in the failure.
    assert failed.message.count("SIGKILL") == 1
    assert "http://127.0.0.1" in failed.message
    assert any(failed.message in remark for remark in remarks)
    assert len([one for one in records if isinstance(one, Done)]) == 8
    second = [pid for _, repeat, pid in executor.runs if repeat == 2]
    assert second[0] == killed[0]
    assert second[1] == second[2] != second[0]
    assert gone(name)


def test_after_a_run_that_failed_the_next_load_gets_a_server_without_its_requests(tmp_path: Path) -> None:
    failed: list[int] = []

    def fault(_task: Task, pid: int) -> str | None:
        failed.append(pid)
        return "hangs" if len(failed) == 1 else None

    executor = Asking(fault)
    visited(study(marker(), repeats=1), tmp_path, executor)
    pids = [pid for _, _, pid in executor.runs]
    assert len(pids) == 4
    assert executor.runs[0][0] == executor.runs[1][0]
    assert pids[0] != pids[1] == pids[2] == pids[3]
    (record,) = [one for one in ledger.read(tmp_path) if isinstance(one, Failed)]
    assert (record.message, record.final) == ("hangs", False)


def test_a_server_that_does_not_come_up_fails_each_load_with_its_last_lines(tmp_path: Path) -> None:
    content = study("unused", repeats=1, execution={"retries": 0})
    content["openai"] = {"launch": {"command": ["sh", "-c", "echo CUDA out of memory; exit 3"]}}
    visited(content, tmp_path, Asking())
    failed = [one for one in ledger.read(tmp_path) if isinstance(one, Failed)]
    assert [one.kind for one in failed] == ["oom"] * 3
    assert all("exit code 3" in one.message and "CUDA out of memory" in one.message for one in failed)


def test_a_visit_that_was_cut_short_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    name = marker()

    def fault(task: Task, _pid: int) -> str | None:
        if task.number == 2:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        visited(study(name), tmp_path, Asking(fault))
    assert gone(name)
    executor = Asking()
    visited(study(name), tmp_path, executor, resume=True)
    done = [one for one in ledger.read(tmp_path) if isinstance(one, Done)]
    assert len({(one.experiment, one.repeat) for one in done}) == len(done) == 9
    assert len(executor.runs) == 6


def as_file(content: dict[str, JsonValue], path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_its_study(number: signal.Signals, tmp_path: Path) -> None:
    name = marker()
    path = as_file(study(name, repeats=1), tmp_path / "study.yaml")
    command = [sys.executable, "-m", "llenergymeasure", "run", str(path), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not processes(name):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=90)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert gone(name)
    assert (tmp_path / "out" / "study" / "report.html").exists() == (number == signal.SIGINT)


def command(path: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "llenergymeasure", "run", str(path), "--output", str(folder), *more]


def measured(folder: Path) -> list[tuple[str, int]]:
    return [(one.experiment, one.repeat) for one in ledger.read(folder) if isinstance(one, Done)]


@pytest.mark.slow
def test_a_study_of_loads_that_is_killed_leaves_nothing_running_and_goes_on(tmp_path: Path) -> None:
    name, folder = marker(), tmp_path / "out" / "study"
    path = as_file(study(name, repeats=1, sweep={"load.concurrency": [1, 2]}), tmp_path / "study.yaml")
    process = subprocess.Popen(
        command(path, folder.parent), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not measured(folder):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert gone(name)
    assert gone(str(folder))
    again = subprocess.run(
        command(path, folder.parent, "--resume"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert len(measured(folder)) == len(set(measured(folder))) == 2
    assert gone(name)


@pytest.mark.slow
def test_a_study_outlives_the_holder_of_its_server_and_ends_what_that_has_left(
    tmp_path: Path,
) -> None:
    name, folder = marker(), tmp_path / "out" / "study"
    path = as_file(study(name, repeats=1, sweep={"load.concurrency": [1, 2]}), tmp_path / "study.yaml")
    process = subprocess.Popen(
        command(path, folder.parent), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not processes(str(folder / "tasks")):
        assert process.poll() is None
        time.sleep(0.05)
    (holder,) = processes(str(folder / "servers"))
    os.kill(holder, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert len(measured(folder)) == 2
    assert gone(name)
    assert gone(str(folder))
    rows = StudyResult.load(folder).rows
    servers = {server for row in rows for server in row.servers}
    # The run in flight ended on its server, or was made again; the next one got a server with a holder.
    assert len(servers) == 2 or any(isinstance(one, Failed) for one in ledger.read(folder))


def test_ctrl_c_in_a_study_of_loads_says_what_became_of_the_requests(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "study"
    with stub_server(first_s=0.05) as url:
        content = study("any", repeats=1, passes={"seconds": 60.0, "count": 1, "prefill": 0})
        content["openai"] = {"base_url": url}
        path = as_file(content, tmp_path / "study.yaml")
        process = subprocess.Popen(
            command(path, folder.parent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while told(url)["counts"].get("answered", 0) < 50:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=90)
        received = told(url)["counts"]["received"]
    assert process.returncode == 130
    (line,) = [line for line in said.splitlines() if "requests were sent" in line]
    counts = line.replace(",", "").partition(": ")[2]
    sent, answered, failed, cancelled = map(int, re.findall(r"\d+", counts))
    assert (sent, failed) == (answered + cancelled, 0)
    assert 0 <= sent - received <= 4
    # What it left of its attempt says nothing of the next one.
    (task,) = (folder / "tasks").glob("*-1-1.json")
    write_task(task, read_task(task))
    assert read_ending(task) is None


def test_results_say_which_server_answered_and_what_was_asked_for(tmp_path: Path) -> None:
    content = study(marker(), repeats=1, sweep={"load.concurrency": [1, 2]})
    path = as_file(content, tmp_path / "study.yaml")
    command = [sys.executable, "-m", "llenergymeasure", "run", str(path), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "study"
    rows = StudyResult.load(folder).rows
    assert [row.varied for row in rows] == [{"load.concurrency": 1}, {"load.concurrency": 2}]
    servers = {server for row in rows for server in row.servers}
    assert len(servers) == 1
    (server,) = servers
    assert server is not None
    for row in rows:
        assert row.folder is not None
        result = ExperimentResult.load(folder / row.folder)
        assert [run.server for run in result.runs] == [server]
        asked: Any = result.config.options
        assert asked.base_url is None
        assert asked.launch is not None
        # A modelled energy is that of the server's processes too.
        assert result.session.pids
    assert (folder / "servers" / "1-1.log").read_text().strip()


def test_a_plan_holds_no_visit_where_nothing_is_launched() -> None:
    config = ExperimentConfig(model="any", backend="simulated")
    assert config.engine.standing_beside is None
