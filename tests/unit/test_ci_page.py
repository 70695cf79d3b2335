"""The job of docs/guides/ci.md: its commands end as the page says, on simulated results."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from example_result import example_result
from test_compare_many import costing_each
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.results.models import ExperimentResult

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "ci.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]


def script(name: str, *, block: int = 0) -> str:
    steps = BLOCKS[block]["jobs"]["energy"]["steps"] if block == 0 else BLOCKS[block]
    (found,) = [step["run"] for step in steps if step.get("name") == name]
    return str(found)


def run(text: str, folder: Path) -> tuple[int, str]:
    """As the runner does it (`bash -e`): the exit code and the job's summary."""
    (folder / "bin").mkdir(exist_ok=True)
    llem = folder / "bin" / "llem"
    llem.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llenergymeasure "$@"\n')
    llem.chmod(0o755)
    summary = folder / "summary.md"
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{llem.parent}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(summary),
        },
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, summary.read_text() if summary.exists() else done.stderr


def stored(folder: Path, a: ExperimentResult, b: ExperimentResult) -> None:
    a.save(folder / "results" / "main")
    b.save(folder / "results" / "branch")


@pytest.mark.parametrize(
    ("costs", "code", "head"),
    [
        ((2.2, 2.21, 2.22), 4, "### ❌ Regression"),
        ((2.0, 2.01, 1.99), 0, "### ✅ No regression"),
        ((1.8, 1.81, 1.79), 0, "### ✅ No regression"),
        ((2.2,), 2, "### ⚠️ Not judged"),
    ],
)
def test_the_step_ends_as_the_page_says_and_writes_its_summary(
    costs: tuple[float, ...], code: int, head: str, tmp_path: Path
) -> None:
    stored(tmp_path, costing_each(1.99, 2.0, 2.01, name="a"), costing_each(*costs, name="b"))
    ended, summary = run(script("Compare"), tmp_path)
    assert (ended, summary.splitlines()[0]) == (code, head)
    assert "| Energy per output token |" in summary


def test_a_step_whose_results_cannot_be_compared_ends_with_two(tmp_path: Path) -> None:
    other = example_result(energy="modelled").model_copy(update={"experiment_id": "b"})
    stored(tmp_path, costing_each(1.99, 2.0, 2.01, name="a"), other)
    assert run(script("Compare"), tmp_path)[0] == 2


def test_the_step_that_measures_takes_the_options_of_the_page(tmp_path: Path) -> None:
    for side in ("main", "branch"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "bench.yaml").write_text("model: any\nbackend: simulated\n")
    for line in script("Measure").splitlines():
        assert run(f"{line} --dry-run", tmp_path)[0] == 0


def test_the_step_in_turns_takes_the_options_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, _, _ = script("Compare", block=1).replace("\\\n", " ").partition(">>")
    # The first thing that is missing are the files.
    done = CliRunner().invoke(app, shlex.split(text)[1:])
    assert done.exit_code == 2
    assert "bench.yaml" in done.stderr
    assert not (tmp_path / "results").exists()
