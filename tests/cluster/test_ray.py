"""A study through a real Ray of two nodes."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
import pytest
from ray_cluster import Cluster, cluster
from small_study import STUDY, alike, attempts, config_with, ended, finished, llem, wait

from llenergymeasure.config.models import HostConfig

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from other_hosts import RECORD, plug_in

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (make test-ray)"),
]


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    nodes = tmp_path_factory.mktemp("nodes")
    with cluster(nodes, site=plug_in(tmp_path_factory.mktemp("packages"))) as found:
        yield found


@pytest.fixture
def study(ray: Cluster, tmp_path: Path) -> Path:
    return through_ray(tmp_path, address=ray.address)


def through_ray(folder: Path, **asked: str | float) -> Path:
    path = folder / "small.yaml"
    execution = {"executor": "ray", "ray": {"cpus": 1, **asked}}
    path.write_text(f"{STUDY}execution: {json.dumps(execution)}\n")
    return path


def test_a_study_through_ray_gives_what_it_gives_on_this_host(
    ray: Cluster, study: Path, tmp_path: Path
) -> None:
    code, out, err = ended(llem("run", str(study), "-o", str(tmp_path / "r"), "--json"))
    assert code == 0, err
    through = finished(tmp_path / "r" / "small")
    assert json.loads(out)["executor"] == "ray"
    assert ended(llem("run", str(study), "-o", str(tmp_path / "l"), "--executor", "local", "-q"))[0] == 0
    assert alike(through, finished(tmp_path / "l" / "small"))
    assert list(ray.nodes.glob("llem-ray-*")) == []


def test_a_node_that_is_lost_in_the_middle_of_a_run_takes_none_away(
    ray: Cluster, study: Path, tmp_path: Path
) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "-q")
    try:
        wait(lambda: bool(ray.runs), "no run begins")
        ray.lose_node()
        code, _, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    finished(tmp_path / "small")
    # The other try was Ray's own.
    assert attempts(tmp_path / "small") == {1}


def test_ctrl_c_ends_the_runs_on_the_nodes_and_resume_finishes(
    ray: Cluster, study: Path, tmp_path: Path
) -> None:
    before = set(ray.nodes.glob("llem-ray-*"))
    process = llem("run", str(study), "-o", str(tmp_path), "-q")
    try:
        wait(lambda: any(run.parents[2] not in before for run in ray.runs), "no run begins")
        process.send_signal(signal.SIGINT)
        code, _, _ = ended(process)
    finally:
        process.kill()
    assert code == 130
    assert set(ray.nodes.glob("llem-ray-*")) == before
    code, _, err = ended(llem("run", str(study), "-o", str(tmp_path), "--resume", "-q"))
    assert code == 0, err
    finished(tmp_path / "small")


def test_what_no_node_has_is_said_and_not_waited_for(ray: Cluster, tmp_path: Path) -> None:
    path = through_ray(tmp_path, address=ray.address, gpus=8)
    code, _, err = ended(llem("run", str(path), "-o", str(tmp_path), "-q"))
    assert (code, "GPU 8" in err, "Traceback" in err) == (1, True, False)


def test_where_there_is_no_ray_that_is_said_and_the_study_starts_once_there_is(
    ray: Cluster, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        path = through_ray(tmp_path, address=f"127.0.0.1:{unused.getsockname()[1]}")
        code, _, err = ended(llem("run", str(path), "-o", str(tmp_path), "-q"))
    assert (code, "no Ray cluster" in err, "Traceback" in err) == (1, True, False)
    path = through_ray(tmp_path, address=ray.address)
    code, _, err = ended(llem("run", str(path), "-o", str(tmp_path), "-q"))
    assert code == 0, err
    finished(tmp_path / "small")


def test_each_node_of_a_cluster_is_recorded_with_its_role(ray: Cluster, tmp_path: Path) -> None:
    hosts = [on_node(ray, "head", "127.0.0.2", "prefill"), on_node(ray, "node2", ray.second, "decode")]
    code, out, err = ended(llem("run", str(config_with(tmp_path, hosts)), "--json"))
    assert code == 0, err
    energy = json.loads(out)["energy"]
    parts = {one["role"]: one for one in energy["hosts"]}
    assert {role: one["hosts"] for role, one in parts.items()} == {
        None: ["here"],
        "prefill": ["head"],
        "decode": ["node2"],
    }
    assert parts["prefill"]["total"]["value"] == pytest.approx(parts["decode"]["total"]["value"], rel=0.02)
    wait(lambda: not recorders(), "a recorder is left")


def test_a_node_that_the_cluster_lacks_is_said_before_the_run(ray: Cluster, tmp_path: Path) -> None:
    config = config_with(tmp_path, [on_node(ray, "node9", "127.0.0.99", None)])
    code, _, err = ended(llem("run", str(config), "--json"))
    assert (code, "127.0.0.2" in err, "Traceback" in err) == (1, True, False)


def on_node(ray: Cluster, name: str, node: str, role: Literal["prefill", "decode"] | None) -> HostConfig:
    command = (*RECORD, "--ray-node", node, "--meter", "wave", "--shared")
    return HostConfig(name=name, command=("env", f"RAY_ADDRESS={ray.address}", *command), role=role)


def recorders() -> list[psutil.Process]:
    """Those that an actor of Ray started, by what only they are told."""
    words = {"record", "wave", "--shared"}
    found = [one for one in psutil.process_iter(["cmdline"]) if words <= set(one.info["cmdline"] or ())]
    return [one for one in found if "--ray-node" not in one.info["cmdline"]]
