"""A study through a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster

from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Done
from llenergymeasure.study.slurm import parse_states

pytest_plugins = ["slurm_cluster"]
pytestmark = pytest.mark.timeout(600)


def llem(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def finished(folder: Path, runs: int) -> StudyResult:
    found = StudyResult.load(folder)
    assert [(row.outcome, row.runs) for row in found.rows] == [("done", runs)] * len(found.rows)
    for row in found.rows:
        assert row.folder is not None
        assert len(ExperimentResult.load(folder / row.folder).measured) == runs
    return found


def test_a_study_through_slurm_gives_what_it_gives_on_this_host(
    slurm: Cluster, study: Path, tmp_path: Path
) -> None:
    code, out, err = ended(
        llem("run", str(study), "-o", str(tmp_path / "s"), "--executor", "slurm", "--json")
    )
    assert code == 0, err
    through = finished(tmp_path / "s" / "small", 2)
    assert json.loads(out)["executor"] == "slurm"
    assert ended(llem("run", str(study), "-o", str(tmp_path / "l"), "-q"))[0] == 0
    here = finished(tmp_path / "l" / "small", 2)
    assert through.identity == here.identity
    assert [(row.hash, row.varied, row.runs) for row in through.rows] == [
        (row.hash, row.varied, row.runs) for row in here.rows
    ]
    assert slurm.call("squeue", "-h") == ""


def test_a_job_that_is_preempted_begins_its_run_anew(slurm: Cluster, study: Path, tmp_path: Path) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "-q")
    try:
        wait_for_jobs(slurm, 2)
        slurm.call("sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 3", "-o", "/dev/null")
        code, _, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    finished(tmp_path / "small", 2)
    begun = [one for one in ledger.read(tmp_path / "small") if isinstance(one, Begun)]
    assert {one.attempt for one in begun} == {1}


def test_a_job_that_is_cancelled_is_a_failure_that_is_tried_again(
    slurm: Cluster, study: Path, tmp_path: Path
) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm")
    try:
        first = wait_for_jobs(slurm, 2)[0]
        slurm.call("scancel", first)
        code, _, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    assert "CANCELLED" in err
    finished(tmp_path / "small", 2)


def test_ctrl_c_cancels_the_jobs_and_resume_finishes(slurm: Cluster, study: Path, tmp_path: Path) -> None:
    process = llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "-q")
    try:
        wait_for_jobs(slurm, 2)
        process.send_signal(signal.SIGINT)
        code, _, _ = ended(process)
    finally:
        process.kill()
    assert code == 130
    until = time.monotonic() + 60
    while slurm.call("squeue", "-h").strip():
        assert time.monotonic() < until
        time.sleep(0.5)
    code, _, err = ended(
        llem("run", str(study), "-o", str(tmp_path), "--executor", "slurm", "--resume", "-q")
    )
    assert code == 0, err
    finished(tmp_path / "small", 2)
    done = [(one.experiment, one.repeat) for one in ledger.read(tmp_path / "small") if isinstance(one, Done)]
    assert len(done) == len(set(done)) == 4


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


def wait_for_jobs(slurm: Cluster, count: int) -> list[str]:
    """The numbers of the running jobs, once there are so many."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        found = slurm.call("squeue", "-h", "-t", "R", "-o", "%i").split()
        if len(found) >= count:
            time.sleep(1.0)
            return found
        time.sleep(0.2)
    raise TimeoutError("no job runs")
