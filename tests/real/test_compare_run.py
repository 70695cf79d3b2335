"""`llem compare --run` as its user starts it: real processes, Ctrl-C, and what is stored."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llenergymeasure.results import ExperimentResult

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LLEM = Path(sys.executable).with_name("llem")
CONFIG = """\
model: any
backend: simulated
n: 2
max_input_tokens: 16
max_output_tokens: 8
passes: {{seconds: 1.2, count: 1, prefill: 0}}
repeats: {{count: 1}}
baseline: {{seconds: 0}}
warmup: {{min_batches: 0, window: 3}}
simulated: {{counter_step_s: 0.01, load_s: 0.05, active_w: {watts}}}
"""


def written(folder: Path) -> list[str]:
    for name, watts in (("a", 300), ("b", 400)):
        (folder / f"{name}.yaml").write_text(CONFIG.format(watts=watts))
    return [str(LLEM), "compare", "--run", "a.yaml", "b.yaml", "--output", "results"]


def test_both_are_measured_in_turns_and_stored(tmp_path: Path) -> None:
    done = subprocess.run(
        [*written(tmp_path), "--budget", "1s", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stored = {one.name: ExperimentResult.load(one) for one in (tmp_path / "results").iterdir()}
    assert {found["a"]["experiment_id"], found["b"]["experiment_id"]} == stored.keys()
    assert [len(one.measured) for one in stored.values()] == [1, 1]
    assert found["ratios"][0]["verdict"] is None
    for name in stored:
        again = subprocess.run([LLEM, "recompute", name], cwd=tmp_path, capture_output=True, check=False)
        assert again.returncode == 0, again.stderr


def test_ctrl_c_keeps_the_runs_that_were_made_and_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        written(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while len(list(tmp_path.glob("results/*/runs/?"))) < 2 or not list(
            tmp_path.glob("results/*/runs/*.part")
        ):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert shown == ""
    assert "Traceback" not in said
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    stored = [ExperimentResult.load(one) for one in (tmp_path / "results").iterdir()]
    assert sorted(len(one.measured) for one in stored) == [1, 1]


def test_what_is_no_experiment_or_asked_for_in_vain_ends_with_two(tmp_path: Path) -> None:
    command = written(tmp_path)
    for arguments in (
        command[:-2],  # no output directory
        [*command, "--at-least", "3"],
        [*command, "--budget", "30"],
        [*command, "c.yaml"],
        [*command, "--baseline", "a"],
        [str(LLEM), "compare", "a.yaml", "b.yaml", "--budget", "30s"],
    ):
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2, (arguments, done.stderr)
        assert not (tmp_path / "results").exists()
