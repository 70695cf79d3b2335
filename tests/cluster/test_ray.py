"""A study through a real Ray of two nodes."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from ray_cluster import Cluster, cluster
from small_study import STUDY, alike, attempts, ended, finished, llem, wait

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (make test-ray)"),
]


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("nodes")) as found:
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
