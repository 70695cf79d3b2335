"""The study that every executor runs, and llem as its user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llenergymeasure.config.models import HostConfig
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Done

STUDY = """\
model: any
backend: simulated
n: 2
max_input_tokens: 16
max_output_tokens: 8
passes: {seconds: 0.4, count: 3, prefill: 0}
repeats: {count: 2}
baseline: {seconds: 0}
warmup: {min_batches: 0, window: 3}
simulated: {counter_step_s: 0.01, load_s: 0.05}
sweep:
  random_seed: [1, 2]
"""


def write_study(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(STUDY)
    return path


def config_with(folder: Path, hosts: list[HostConfig]) -> Path:
    asked = {
        "model": "random:llama-tiny",
        "backend": "simulated",
        "n": 2,
        "max_output_tokens": 16,
        "passes": {"seconds": 2.0, "count": 2, "prefill": 0},
        "repeats": {"count": 1},
        "baseline": {"seconds": 1.0},
        "energy": {"hosts": [host.model_dump(mode="json") for host in hosts]},
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(asked))
    return path


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


def finished(folder: Path) -> StudyResult:
    """The study, with two runs of each experiment, none of them made twice."""
    found = StudyResult.load(folder)
    assert [(row.outcome, row.runs) for row in found.rows] == [("done", 2)] * 2
    for row in found.rows:
        assert row.folder is not None
        assert len(ExperimentResult.load(folder / row.folder).measured) == 2
    done = [(one.experiment, one.repeat) for one in ledger.read(folder) if isinstance(one, Done)]
    assert len(done) == len(set(done)) == 4
    return found


def alike(there: StudyResult, here: StudyResult) -> bool:
    """Whether they are of the same experiments with the same work, apart from time."""
    assert there.identity == here.identity
    return [(row.hash, row.varied, row.runs, row.outcome) for row in there.rows] == [
        (row.hash, row.varied, row.runs, row.outcome) for row in here.rows
    ]


def attempts(folder: Path) -> set[int]:
    return {one.attempt for one in ledger.read(folder) if isinstance(one, Begun)}


def wait(is_so: Callable[[], bool], problem: str, *, within_s: float = 120.0) -> None:
    until = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(problem)
        time.sleep(0.1)
