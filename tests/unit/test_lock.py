"""One run at a time on one device, whoever starts it and however the one before ended."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from benchmarks.boards.scenario import Board, Scenario, write_scenario
from pydantic import JsonValue

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.measure.lock import DomainLocks, run_domains
from llenergymeasure.records import Domain, PowerModel

HOLD = """
import subprocess, sys
from pathlib import Path
from llenergymeasure.measure.lock import DomainLocks
with DomainLocks(owner=sys.argv[1], directory=Path(sys.argv[2])) as locks:
    locks.take(sys.argv[4:])
    if sys.argv[3] == "with-child":
        child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
    else:
        print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(
    directory: Path, *domains: str, how: str = "alone"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has the locks, and what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "the-other-run", str(directory), how, *domains],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def take(directory: Path, *domains: str) -> None:
    with DomainLocks(owner="this-run", directory=directory) as locks:
        locks.take(domains)


def test_a_second_process_is_refused_and_told_who_measures(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-a") as (process, _):
        start = time.monotonic()
        with pytest.raises(PreFlightError) as refused:
            take(tmp_path, "gpu:GPU-a")
        assert time.monotonic() - start < 1
    assert refused.value.message == (
        f"GPU-a is being measured by process {process.pid} (the-other-run): "
        "two runs on one GPU disturb each other"
    )
    assert refused.value.hint is not None
    assert "CUDA_VISIBLE_DEVICES" in refused.value.hint


def test_other_devices_stay_free(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-a", "module:GPU-a"):
        take(tmp_path, "gpu:GPU-b", "cpu:0")


def test_a_context_that_is_left_frees_its_devices(tmp_path: Path) -> None:
    for _ in range(3):
        take(tmp_path, "gpu:GPU-a", "cpu:0")
    with DomainLocks(owner="this-run", directory=tmp_path) as locks:
        locks.take(["gpu:GPU-a"])
        locks.take(["gpu:GPU-a", "gpu:GPU-b"])
        with pytest.raises(PreFlightError, match=rf"process {os.getpid()} \(this-run\)"):
            take(tmp_path, "gpu:GPU-b")
    take(tmp_path, "gpu:GPU-b")


def test_what_was_taken_before_a_refusal_is_freed(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-b"), pytest.raises(PreFlightError, match="GPU-b"):
        take(tmp_path, "cpu:0", "gpu:GPU-a", "gpu:GPU-b", "gpu:GPU-c")
    take(tmp_path, "cpu:0", "gpu:GPU-a", "gpu:GPU-b", "gpu:GPU-c")


def test_a_lock_dies_with_its_process_even_where_a_child_of_it_lives_on(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-a", how="with-child") as (process, child):
        with pytest.raises(PreFlightError):
            take(tmp_path, "gpu:GPU-a")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        try:
            assert psutil.pid_exists(int(child))
            take(tmp_path, "gpu:GPU-a")
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_of_many_that_want_several_devices_at_once_exactly_one_gets_them(tmp_path: Path) -> None:
    outcomes: list[bool] = []
    start, done = threading.Barrier(8), threading.Barrier(8)

    def contend(order: Sequence[str]) -> None:
        with DomainLocks(owner="one-of-eight", directory=tmp_path) as locks:
            start.wait(timeout=10)
            try:
                locks.take(order)
                outcomes.append(True)
            except PreFlightError:
                outcomes.append(False)
            done.wait(timeout=10)

    names = ["gpu:GPU-a", "gpu:GPU-b", "gpu:GPU-c"]
    threads = [
        threading.Thread(target=contend, args=(names if number % 2 else names[::-1],)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(outcomes) == [False] * 7 + [True]


def test_devices_are_taken_in_one_order_whatever_the_order_they_are_named_in(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-a"), pytest.raises(PreFlightError, match="GPU-a"):
        take(tmp_path, "gpu:GPU-c", "gpu:GPU-b", "gpu:GPU-a")
    assert [path.name for path in tmp_path.iterdir()] == ["llem-gpu-GPU-a.lock"]


def test_the_file_is_open_to_every_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        take(tmp_path, "gpu:GPU-a/../b")
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.name == "llem-gpu-GPU-a-..-b.lock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_link_that_somebody_left_there_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "llem-gpu-GPU-a.lock").symlink_to(precious)
    with pytest.raises(PreFlightError, match="can't be opened"):
        take(tmp_path, "gpu:GPU-a")
    assert precious.read_text() == "kept"


def test_a_folder_that_can_t_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PreFlightError, match=r"nowhere.*No such file") as refused:
        take(tmp_path / "nowhere", "gpu:GPU-a")
    assert refused.value.hint is not None
    assert "LLEM_LOCK_DIR" in refused.value.hint


def test_what_another_user_wrote_can_t_move_the_terminal_s_cursor(tmp_path: Path) -> None:
    with holding(tmp_path, "gpu:GPU-a"):
        (tmp_path / "llem-gpu-GPU-a.lock").write_bytes(b"\x1b[2J\n1 (\xff)")
        with pytest.raises(PreFlightError) as refused:
            take(tmp_path, "gpu:GPU-a")
    assert refused.value.message.isprintable()


MODEL = PowerModel("any", "nowhere", 1.0, (0.5, 2.0), 0.0, (0.0, 0.0))
SEEN = (
    Domain("gpu:GPU-a", "gpu", ()),
    Domain("module:GPU-a", "module", ()),
    Domain("gpu:GPU-b", "gpu", ()),
    Domain("gpu:GPU-c", "gpu", ()),
    Domain("cpu:0", "cpu", ()),
    Domain("dram:0", "dram", ()),
    Domain("host", "host", (), model=MODEL),
)
FIRST = ["gpu:GPU-a", "module:GPU-a"]
ALL = [*FIRST, "gpu:GPU-b", "gpu:GPU-c"]
HOST = ["cpu:0", "dram:0"]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, FIRST + HOST),
        ({"pytorch": {"device": "cpu"}}, HOST),
        ({"pytorch": {"device_map": "auto"}}, ALL + HOST),
        ({"pytorch": {"num_processes": 2}}, ALL[:3] + HOST),
        ({"pytorch": {"device": "cpu"}, "energy": {"gpus": "all"}}, ALL + HOST),
        ({"backend": "vllm"}, FIRST + HOST),
        ({"backend": "vllm", "vllm": {"engine": {"tensor_parallel_size": 2}}}, ALL[:3] + HOST),
        (
            {
                "backend": "vllm",
                "vllm": {"engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
            },
            ALL + HOST,
        ),
        ({"backend": "llamacpp"}, HOST),
        ({"backend": "llamacpp", "llamacpp": {"gpu_layers": -1}}, ALL + HOST),
    ],
)
def test_what_a_run_will_use_is_locked_and_what_it_only_records_is_not(
    settings: dict[str, JsonValue], wanted: list[str]
) -> None:
    config = ExperimentConfig.model_validate({"model": "any", **settings})
    assert run_domains(SEEN, config) == wanted


LLEM = Path(sys.executable).with_name("llem")
STAND_IN = Path(__file__).parents[2] / "benchmarks/boards/pynvml"
GPUS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb")


@dataclass(frozen=True)
class Machine:
    """A host with two simulated GPUs, whose runs stay in their first idle window."""

    folder: Path

    def command(self, *arguments: str) -> list[str | Path]:
        model = f"random:{self.folder / 'shape'}"
        idle = ["--set", "baseline.seconds=120", "--set", "pytorch.device=auto"]
        return [LLEM, "run", "-m", model, "-n", "1", "--meter", "nvml", *idle, *arguments]

    def environ(self, visible: str | None) -> dict[str, str]:
        chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        return {
            **os.environ,
            "PYTHONPATH": str(STAND_IN),
            "LLEM_SIMULATED_NVML": str(self.folder / "scenario.json"),
            "LLEM_LOCK_DIR": str(self.folder / "locks"),
            "TMPDIR": str(self.folder / "scratch"),
            **chosen,
        }

    @contextmanager
    def running(self, visible: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            self.command(), env=self.environ(visible), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            try:
                yield run
            finally:
                run.send_signal(signal.SIGINT)
                run.wait(timeout=30)

    def llem(self, *arguments: str, visible: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ(visible),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def measures(self, gpu: str, run: subprocess.Popen[bytes]) -> bool:
        path = self.folder / "locks" / f"llem-gpu-{gpu}.lock"
        return path.exists() and path.read_text().startswith(f"{run.pid} ")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for folder in ("locks", "scratch", "shape"):
        (tmp_path / folder).mkdir()
    shape = {
        "model_type": "llama",
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    (tmp_path / "shape/config.json").write_text(json.dumps(shape))
    write_scenario(
        tmp_path / "scenario.json",
        Scenario(time.monotonic_ns(), tuple(Board(uuid, 50.0) for uuid in GPUS)),
    )
    return Machine(tmp_path)


def until(holds: Callable[[], bool], *, within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.timeout(180)
def test_a_second_run_on_one_gpu_ends_at_once_with_1(machine: Machine) -> None:
    with machine.running() as first:
        until(lambda: machine.measures(GPUS[0], first))
        second = machine.llem()
        assert second.returncode == 1
        assert second.stdout == ""
        assert "Traceback" not in second.stderr
        line = next(line for line in second.stderr.splitlines() if line.startswith("PreFlightError: "))
        assert f"{GPUS[0]} is being measured by process {first.pid} (" in line
        assert first.poll() is None
        first.kill()
        first.wait(timeout=30)
        with machine.running() as third:
            until(lambda: machine.measures(GPUS[0], third))


@pytest.mark.timeout(180)
def test_runs_on_two_gpus_do_not_hinder_each_other(machine: Machine) -> None:
    # The first one records both boards and uses but the first of them.
    with machine.running() as first, machine.running(visible=GPUS[1]) as second:
        until(lambda: machine.measures(GPUS[0], first) and machine.measures(GPUS[1], second))
        time.sleep(1)
        assert (first.poll(), second.poll()) == (None, None)


@pytest.mark.parametrize(
    ("name", "told"), [("GPU-9", "means no GPU of this machine"), ("GPU-", "means 2 GPUs of this machine")]
)
def test_a_dry_run_tells_of_gpus_that_the_run_would_not_find(machine: Machine, name: str, told: str) -> None:
    wrong = ["--set", f"energy.gpus=[{name}]"]
    dry = machine.llem(*wrong, "--dry-run")
    assert dry.returncode == 0
    refusal = next(line for line in dry.stdout.splitlines() if line.startswith("This run would be refused: "))
    assert told in refusal
    as_json = machine.llem(*wrong, "--dry-run", "--json")
    assert told in json.loads(as_json.stdout)["refused"]
    run = machine.llem(*wrong)
    assert run.returncode == 1
    assert told in run.stderr
    assert "hint: " in run.stderr


def test_a_dry_run_finds_the_gpus_that_are_there(machine: Machine) -> None:
    dry = machine.llem("--set", f"energy.gpus=[1, {GPUS[0][:8]}]", "--dry-run", "--json")
    assert json.loads(dry.stdout)["refused"] is None


def test_a_dry_run_on_the_simulated_device_knows_its_gpus_too() -> None:
    simulated: list[str | Path] = [LLEM, "run", "-b", "simulated", "-m", "any", "--dry-run", "--json"]
    done = subprocess.run(
        [*simulated, "--set", "energy.gpus=[7]"], capture_output=True, check=True, timeout=60
    )
    assert "means no GPU of this machine" in json.loads(done.stdout)["refused"]
    done = subprocess.run(simulated, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["refused"] is None
