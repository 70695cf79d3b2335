"""A study through a real Slurm of two nodes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, cluster, why_not
from small_study import alike, attempts, ended, finished, llem, wait, write_study

from llenergymeasure.study.slurm import parse_states

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if (why := why_not()) is not None:
        pytest.skip(why)
    pytest.importorskip("submitit")
    with cluster(tmp_path_factory.mktemp("slurm")) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_a_study_through_slurm_gives_what_it_gives_on_this_host(
    slurm: Cluster, study: Path, tmp_path: Path
) -> None:
    code, out, err = ended(
        llem("run", str(study), "-o", str(tmp_path / "s"), "--executor", "slurm", "--json")
    )
    assert code == 0, err
    through = finished(tmp_path / "s" / "small")
    assert json.loads(out)["executor"] == "slurm"
    assert ended(llem("run", str(study), "-o", str(tmp_path / "l"), "-q"))[0] == 0
    here = finished(tmp_path / "l" / "small")
    assert alike(through, here)
    assert slurm.call("squeue", "-h") == ""


def test_a_job_that_is_preempted_begins_its_run_anew(slurm: Cluster, study: Path, tmp_path: Path) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "-q")
    try:
        wait_for_jobs(slurm, study, 2)
        slurm.call("sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 3", "-o", "/dev/null")
        code, _, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    finished(tmp_path / "small")
    assert attempts(tmp_path / "small") == {1}


def test_a_job_that_is_cancelled_is_a_failure_that_is_tried_again(
    slurm: Cluster, study: Path, tmp_path: Path
) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm")
    try:
        first = wait_for_jobs(slurm, study, 2)[0]
        slurm.call("scancel", first)
        code, _, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    assert "CANCELLED" in err
    finished(tmp_path / "small")


def test_ctrl_c_cancels_the_jobs_and_resume_finishes(slurm: Cluster, study: Path, tmp_path: Path) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "-q")
    try:
        wait_for_jobs(slurm, study, 2)
        process.send_signal(signal.SIGINT)
        code, _, _ = ended(process)
    finally:
        process.kill()
    assert code == 130
    wait(lambda: not slurm.call("squeue", "-h").strip(), "its jobs are not cancelled")
    code, _, err = ended(
        llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "--resume", "-q")
    )
    assert code == 0, err
    finished(tmp_path / "small")


def test_where_there_is_no_slurm_that_is_said(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = ended(llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "-q"))
    assert code in {1, 2}
    assert "Slurm" in err or "submitit" in err
    assert "Traceback" not in err


def test_parts_of_an_array_are_known_by_their_numbers() -> None:
    text = (
        "JobId=7 ArrayJobId=7 ArrayTaskId=2-3,5%4 JobName=llem JobState=PENDING Reason=Resources\n"
        "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=llem JobState=RUNNING Reason=None\n"
        "JobId=9 JobName=other JobState=COMPLETED Reason=None\n"
    )
    states = {job: state.name for job, state in parse_states(text).items()}
    assert states == {
        "7": "PENDING",
        "7_2": "PENDING",
        "7_3": "PENDING",
        "7_5": "PENDING",
        "8": "RUNNING",
        "7_0": "RUNNING",
        "9": "COMPLETED",
    }


def wait_for_jobs(slurm: Cluster, study: Path, count: int) -> list[str]:
    """The numbers of the running jobs, once so many runs are under way."""
    parts = study.parent / "small"
    wait(lambda: len(list(parts.glob("*/runs/*.part"))) >= count, "no run begins")
    return slurm.call("squeue", "-h", "-t", "R", "-o", "%i").split()
