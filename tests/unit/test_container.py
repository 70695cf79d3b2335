"""The container's command as a value, and its whole path with a stand-in for docker as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_docker
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.runner import RunnerConfig
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.exceptions import ConfigError, ExperimentError, PreFlightError
from llenergymeasure.measure.child import ChildWorker
from llenergymeasure.measure.container import (
    Container,
    Found,
    Mount,
    command,
    container_gpus,
    environment,
    find,
    launcher,
    mounts,
)
from llenergymeasure.measure.launch import WORKER_MODULE, Launch
from llenergymeasure.measure.preflight import preflight
from llenergymeasure.measure.protocol import PROTOCOL_VERSION
from llenergymeasure.records import GpuFacts

SECRET = "hf_a-secret-of-this-user"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of this host with a token, and docker on the path; returns where docker keeps its notes."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLEM_CACHE_DIR", str(tmp_path / "home/.cache/llenergymeasure"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "work"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fake_docker.install(tmp_path / "docker")
    monkeypatch.setenv("PATH", f"{tmp_path / 'docker'}:/usr/bin:/bin")
    return tmp_path / "docker"


def config(**changes: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 8,
            "preset": "smoke",
            "repeats": {"count": 1},
            "passes": {"seconds": 1.0, "count": 1},
            "baseline": {"seconds": 0.5},
            "warmup": {"max_seconds": 1.0},
            "simulated": {"load_s": 0.0, "decode_s_per_step": 1e-3},
            "runner": {"kind": "container", "image": "engines:1"},
            **changes,
        }
    )


def container(**changes: Any) -> Container:
    given_values: dict[str, Any] = {
        "engine": "docker",
        "image": "engines:1",
        "name": "llem-1",
        "gpus": ("GPU-a", "GPU-b"),
        "mounts": (Mount(Path("/models/m"), Path("/models/m")), Mount(Path("/c"), Path("/c"), writable=True)),
        "env_file": Path("/tmp/env"),
        "workdir": Path("/work"),
        "user": (1000, 1001),
        "network": "host",
    }
    return Container(**(given_values | changes))


def worker(asked: ExperimentConfig, directory: Path) -> ChildWorker:
    return ChildWorker(asked, run_id="run", directory=directory, launch=launcher(asked, ()))


def calls(host: Path) -> list[list[str]]:
    return [json.loads(line) for line in (host / "calls.jsonl").read_text().splitlines()]


def alive(pid: int) -> bool:
    """An orphan whose reaper is slow is dead all the same."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def test_docker_runs_the_worker_among_this_hosts_processes() -> None:
    assert command(container()) == [
        "docker",
        "run",
        "--rm",
        "--interactive",
        "--pull=never",
        "--name=llem-1",
        "--pid=host",
        "--ipc=host",
        "--network=host",
        "--log-driver=none",
        "--user=1000:1001",
        "--security-opt=label=disable",
        '--gpus="device=GPU-a,GPU-b"',
        "--mount=type=bind,source=/models/m,target=/models/m,readonly",
        "--mount=type=bind,source=/c,target=/c",
        "--workdir=/work",
        "--env-file=/tmp/env",
        "--entrypoint=python3",
        "engines:1",
        "-m",
        "llenergymeasure.measure.worker",
    ]


def test_podman_names_gpus_by_cdi_and_keeps_the_users_id() -> None:
    line = command(container(engine="podman"))
    assert line[0] == "podman"
    assert [one for one in line if one.startswith("--device")] == [
        "--device=nvidia.com/gpu=GPU-a",
        "--device=nvidia.com/gpu=GPU-b",
    ]
    assert not [one for one in line if one.startswith("--gpus")]
    assert "--userns=keep-id" in line
    assert "--userns=keep-id" not in command(container(engine="podman", user=(0, 0)))


def test_without_a_gpu_none_is_asked_for() -> None:
    for engine in ("docker", "podman"):
        line = " ".join(command(container(engine=engine, gpus=())))
        assert "gpu" not in line


def test_no_network_is_a_choice() -> None:
    assert "--network=none" in command(container(network="none"))


@given(st.text(alphabet="ab ,\"'", min_size=1, max_size=12))
def test_a_path_with_commas_and_quotes_is_one_field(name: str) -> None:
    """docker and podman read the option as one line of CSV."""
    import csv

    path = Path("/models") / name
    (option,) = [one for one in command(container(mounts=(Mount(path, path),))) if one.startswith("--mount=")]
    (fields,) = csv.reader([option.removeprefix("--mount=")])
    assert fields == ["type=bind", f"source={path}", f"target={path}", "readonly"]


def test_what_the_configuration_names_on_disk_is_mounted_read_only_where_it_lies(host: Path) -> None:
    work = host.parent / "work"
    for folder in ("models/big", "draft"):
        (work / folder).mkdir(parents=True)
    (work / "prompts.jsonl").write_text("{}")
    (host.parent / "hub").mkdir()
    asked = ExperimentConfig.model_validate(
        {
            "model": str(work / "models/big"),
            "backend": "vllm",
            "dataset": "prompts.jsonl",
            "vllm": {"engine": {"speculative_config": {"model": "./draft"}}},
            "runner": {"kind": "container", "image": "i"},
        }
    )
    seen = {mount.target: mount for mount in mounts(asked)}
    for path in (work / "models/big", work / "draft", work / "prompts.jsonl", host.parent / "hub"):
        assert seen[path] == Mount(path, path)
    cache = host.parent / "home/.cache/llenergymeasure"
    assert seen[cache] == Mount(cache, cache, writable=True)
    home = host.parent / "home"
    assert seen[home] == Mount(cache / "container-home", home, writable=True)


def test_mount_points_in_the_home_exist_before_docker_would_make_them_as_root(host: Path) -> None:
    home = host.parent / "home"
    (home / "models/m").mkdir(parents=True)
    (home / "p.jsonl").write_text("{}")
    mounts(config(model=str(home / "models/m"), dataset=str(home / "p.jsonl")))
    inside = home / ".cache/llenergymeasure/container-home"
    assert (inside / "models/m").is_dir()
    assert (inside / "p.jsonl").is_file()
    assert (inside / ".cache/llenergymeasure").is_dir()


def test_mounts_of_the_users_own(host: Path) -> None:
    data = host.parent / "data"
    data.mkdir()
    runner = {"kind": "container", "image": "i", "mounts": [f"{data}:/in", f"{data}:/out:rw"]}
    seen = {mount.target: mount for mount in mounts(config(runner=runner))}
    assert seen[Path("/in")] == Mount(data, Path("/in"))
    assert seen[Path("/out")] == Mount(data, Path("/out"), writable=True)
    with pytest.raises(ConfigError, match="does not exist"):
        mounts(config(runner={**runner, "mounts": ["/not/there:/in"]}))


def test_variables_of_the_worker(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("UNRELATED", "x")
    seen = environment(config(runner={"kind": "container", "image": "i", "env": ["NCCL_DEBUG"]}))
    assert seen["HF_TOKEN"] == SECRET
    assert seen["NCCL_DEBUG"] == "INFO"
    assert seen["HF_HUB_OFFLINE"] == "0"
    assert seen["HOME"] == str(host.parent / "home")
    assert "UNRELATED" not in seen
    alone = environment(config(runner={"kind": "container", "image": "i", "network": "none"}))
    assert alone["HF_HUB_OFFLINE"] == "1"


def test_a_variable_that_is_not_there_or_fits_no_line_is_refused(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="ABSENT, which is not set"):
        environment(config(runner={"kind": "container", "image": "i", "env": ["ABSENT"]}))
    monkeypatch.setenv("TWO", "a\nb")
    with pytest.raises(ConfigError, match="line break"):
        environment(config(runner={"kind": "container", "image": "i", "env": ["TWO"]}))


@pytest.mark.parametrize(
    ("runner", "says"),
    [
        ({"kind": "container"}, "runner.image is empty"),
        ({"kind": "container", "image": " "}, "runner.image is empty"),
        ({"image": "i"}, "runner.kind is local"),
        ({"kind": "container", "image": "i", "mounts": ["/a"]}, "is not a mount"),
        ({"kind": "container", "image": "i", "mounts": ["/a:b"]}, "is not a mount"),
        ({"kind": "container", "image": "i", "mounts": ["/a:/b:z"]}, "is not a mount"),
        ({"kind": "container", "image": "i", "env": ["A=b"]}, "names of variables"),
    ],
)
def test_a_runner_that_makes_no_sense_is_refused(runner: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RunnerConfig.model_validate(runner)


def test_the_engine_that_answers_is_found(host: Path) -> None:
    assert find(RunnerConfig(kind="container", image="i")).engine == "docker"
    (host / "no-daemon").touch()
    fake_docker.install(host.parent / "podman", "podman")
    os.environ["PATH"] = f"{host.parent / 'podman'}:{os.environ['PATH']}"
    found = find(RunnerConfig(kind="container", image="i"))
    assert (found.engine, found.image_id) == ("podman", "sha256:0123")


def test_without_an_engine_one_reason_names_what_each_said(host: Path) -> None:
    (host / "no-daemon").touch()
    with pytest.raises(PreFlightError, match=r"docker does not work \(Cannot connect.*podman is not inst"):
        find(RunnerConfig(kind="container", image="i"))


def test_an_image_that_is_not_there_is_not_pulled_by_a_run(host: Path) -> None:
    (host / "no-image").touch()
    with pytest.raises(PreFlightError, match="no image 'i'") as caught:
        find(RunnerConfig(kind="container", image="i"))
    assert caught.value.hint == "docker pull i"


def test_preflight_lists_the_container_and_does_not_ask_this_host_for_the_engine(host: Path) -> None:
    asked = ExperimentConfig.model_validate(
        {
            "model": "random:smollm2-135m",
            "backend": "vllm",
            "runner": {"kind": "container", "image": "i"},
        }
    )
    meters = Selection(meters=(), method="modelled", refused=())
    assert preflight(asked, lambda: meters, gpus=()).container == Found("docker", "sha256:0123")
    (host / "no-image").touch()
    with pytest.raises(PreFlightError, match=r"^container: docker has no image 'i'$") as caught:
        preflight(asked, lambda: meters, gpus=())
    assert caught.value.hint == "docker pull i"


def test_gpus_go_by_uuid_as_cuda_visible_devices_leaves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [GpuFacts(uuid=f"GPU-{name}", index=at) for at, name in enumerate("abc")]
    asked = ExperimentConfig.model_validate({"model": "m", "backend": "vllm"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert container_gpus(asked, gpus) == ("GPU-a", "GPU-b", "GPU-c")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-c,GPU-a")
    assert container_gpus(asked, gpus) == ("GPU-c", "GPU-a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(PreFlightError, match="PCI_BUS_ID"):
        container_gpus(asked, gpus)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert container_gpus(asked, gpus) == ("GPU-b",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1, MIG-2")
    assert container_gpus(asked, gpus) == ("MIG-1", "MIG-2")
    assert container_gpus(config(), gpus) == ()


def test_a_worker_in_a_container_answers_and_its_own_pid_is_seen(host: Path, tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        (pid,) = child.pids()
        assert WORKER_MODULE in psutil.Process(pid).cmdline()
        client = psutil.Process(pid).parent()
        assert client is not None
        assert str(host / "docker") in client.cmdline()
        seen = json.loads((host / "env.json").read_text())
        assert not Path(seen["path"]).exists(), "the file of secrets is gone once the worker has them"
        child.close()
    assert seen["mode"] == 0o600
    assert seen["variables"]["HF_TOKEN"] == SECRET
    assert not alive(pid)


def test_no_secret_is_on_a_command_line_and_the_container_is_removed_last(host: Path, tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        child.close()
    told = calls(host)
    assert SECRET not in json.dumps(told)
    (run,) = [one for one in told if one[0] == "run"]
    (name,) = [one.removeprefix("--name=") for one in run if one.startswith("--name=")]
    assert told[-1] == ["rm", "--force", name]


def test_a_killed_client_leaves_no_container(host: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with worker(config(), tmp_path) as child:
        child.open()
        (pid,) = child.pids()
        client = psutil.Process(pid).parent()
        assert client is not None
        client.kill()
        client.wait(5)
        assert alive(pid)
    assert not alive(pid)
    assert time.monotonic() - began < 15


def test_each_fresh_worker_is_a_container_of_its_own(host: Path, tmp_path: Path) -> None:
    pids: list[int] = []
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        with worker(config(), directory) as child:
            child.open()
            pids += child.pids()
        assert not alive(pids[-1])
    assert len(set(pids)) == 2
    names = {option for one in calls(host) for option in one if option.startswith("--name=")}
    assert len(names) == 2


def test_a_container_that_can_not_be_removed_is_told(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-m", WORKER_MODULE), lambda: None, lambda: "rm --force llem-1 failed")
    child = ChildWorker(config(), run_id="run", directory=tmp_path, launch=lambda: launch)
    child.open()
    (pid,) = child.pids()
    with pytest.raises(ExperimentError, match="may still run: rm --force llem-1 failed"):
        child.__exit__(None, None, None)
    assert not alive(pid)


def test_an_image_without_llem_says_so(host: Path, tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-S", "-m", "not_llem"), lambda: None, lambda: None)
    with (
        ChildWorker(config(), run_id="run", directory=tmp_path, launch=lambda: launch) as child,
        pytest.raises(ExperimentError) as caught,
    ):
        child.open()
    assert "No module named not_llem" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("version", "pid", "says"),
    [(0, "os.getpid()", "same version of llem"), (PROTOCOL_VERSION, "1", "none of this host's workers")],
)
def test_a_worker_of_another_version_or_among_other_processes_is_refused(
    tmp_path: Path, version: int, pid: str, says: str
) -> None:
    hello = f"dict(say='hello', version={version}, pid={pid}, t_ns=time.monotonic_ns())"
    script = f"import json, os, sys, time; print(json.dumps({hello}), flush=True); sys.stdin.readline()"
    launch = Launch((sys.executable, "-c", script), lambda: None, lambda: None)
    with (
        ChildWorker(config(), run_id="run", directory=tmp_path, launch=lambda: launch) as child,
        pytest.raises(ExperimentError, match=says),
    ):
        child.open()


def test_what_an_engine_started_in_a_group_of_its_own_ends_too(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "left = subprocess.Popen(['sleep', '300'], process_group=0)\n"
        f"open({str(tmp_path / 'left')!r}, 'w').write(str(left.pid))\n"
        f"os.execv(sys.executable, [sys.executable, '-m', {WORKER_MODULE!r}])\n"
    )
    launch = Launch((sys.executable, "-c", script), lambda: None, lambda: None)
    with ChildWorker(config(), run_id="run", directory=tmp_path, launch=lambda: launch) as child:
        child.open()
        left = int((tmp_path / "left").read_text())
        psutil.Process(child.pids()[0]).kill()
    wait_until(lambda: not alive(left), seconds=5)


def run_llem(asked: ExperimentConfig, *more: str) -> subprocess.Popen[str]:
    Path("experiment.yaml").write_text(asked.model_dump_json(exclude_defaults=True))
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from llenergymeasure.cli import app; app()",
            "run",
            "experiment.yaml",
            "--json",
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_whole_run_in_a_container(host: Path) -> None:
    with run_llem(config()) as llem:
        stdout, stderr = llem.communicate(timeout=100)
    assert llem.returncode == 0, stderr
    result = json.loads(stdout)
    assert result["tokens"]["output"] > 0
    assert result["config"]["runner"]["image"] == "engines:1"
    assert "image sha256:0123" in json.dumps(result)
    assert SECRET not in stdout + stderr
    assert not list(Path.cwd().glob("llem-*")), "neither the run's files nor the file of secrets"
    assert not list(host.glob("llem-*")), "no container"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_ended_takes_its_container_along(host: Path, number: int, code: int) -> None:
    with run_llem(config(simulated={"load_s": 60.0})) as llem:
        wait_until(lambda: bool(list(host.glob("llem-*"))))
        time.sleep(1.0)
        llem.send_signal(number)
        _, stderr = llem.communicate(timeout=60)
    assert llem.returncode == code, stderr
    assert not list(host.glob("llem-*"))
    assert not list(Path.cwd().glob("llem-env-*"))


def test_a_killed_run_leaves_no_worker(host: Path) -> None:
    """Nothing of llem is left to remove the container: the worker ends as its stdin closes."""
    with run_llem(config(simulated={"load_s": 60.0})) as llem:
        wait_until(lambda: bool(list(host.glob("llem-*"))))
        time.sleep(1.0)
        (pid_file,) = host.glob("llem-*")
        pid = int(pid_file.read_text())
        llem.kill()
        llem.communicate(timeout=10)
        wait_until(lambda: not alive(pid), seconds=10)
    wait_until(lambda: not list(host.glob("llem-*")), seconds=10)


def test_the_entry_point_is_a_process_that_speaks_the_protocol() -> None:
    line = command(container(gpus=()))
    entry = line[line.index("-m") :]
    with subprocess.Popen(
        [sys.executable, *entry],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = json.loads(process.stdout.readline())
        assert (hello["say"], hello["pid"]) == ("hello", process.pid)
        threading.Timer(0.2, process.stdin.close).start()
        assert process.wait(10) == -signal.SIGKILL
