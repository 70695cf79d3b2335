"""The package in docs/guides/adding-a-backend.md, installed as a third party's and measured with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llenergymeasure import ExperimentResult

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "adding-a-backend.md"
LLEM = Path(sys.executable).with_name("llem")
EXPERIMENT = ["--model", "random:llama-3.2-1b", "-n", "8", "--set", "max_output_tokens=11"]
QUICK = ["--set", "passes.seconds=1", "--set", "passes.count=3", "--set", "repeats.count=1"]
QUICK += ["--set", "baseline.seconds=0"]


def files_of_the_page() -> Mapping[str, str]:
    blocks = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(blocks)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on the path, into which pip has installed the package."""
    source = tmp_path_factory.mktemp("llem-metronome")
    for name, text in files_of_the_page().items():
        (source / name).write_text(text)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, source], check=True, timeout=120, cwd=source
    )
    return target


def llem(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LLEM, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return llem("run", "--backend", "metronome", *EXPERIMENT, *QUICK, *arguments, path=path, cwd=cwd)


def test_the_page_holds_a_package_of_two_files() -> None:
    assert set(files_of_the_page()) == {"pyproject.toml", "llem_metronome.py"}


def test_a_run_measures_with_it_and_its_options_arrive(path: Path, tmp_path: Path) -> None:
    # 11 tokens at 10 ms each, in batches of four: 80 tokens in 0.22 s of each walk.
    options = ["--batch-size", "4", "--set", "options.s_per_token=0.01"]
    done = run(*options, "--output", "out", path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    result = ExperimentResult.load(folder)
    assert result.session.arguments == {"batch_size": 4, "s_per_token": 0.01}
    assert result.session.versions["llem-metronome"] == "1.0"
    assert result.tokens.pinned_ok is True
    assert result.tokens.output == 11 * result.tokens.requests
    assert result.origins["options.s_per_token"] == "flag"
    tpot, speed = result.performance.tpot_s.p50.value, result.performance.output_tokens_per_second.value
    assert tpot == pytest.approx(0.01, rel=0.2)
    assert speed == pytest.approx(4 / 0.01, rel=0.2)
    assert result.energy.per_output_token.value is not None


def test_its_result_is_read_where_it_is_not_installed(path: Path, tmp_path: Path) -> None:
    done = run("--set", "options.s_per_token=0.001", "--output", "out", path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    again = llem("recompute", str(folder), path=tmp_path, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_option_that_it_does_not_know_is_refused_as_the_page_shows(
    path: Path, tmp_path: Path, dry: list[str]
) -> None:
    done = run("--set", "options.speed=2", *dry, path=path, cwd=tmp_path)
    said = "options.speed: Extra inputs are not permitted"
    if dry:
        assert done.returncode == 0
        assert f"This run would be refused: backend metronome: {said}" in done.stdout
    else:
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()[-1:]
        assert line == f"PreFlightError: backend metronome: {said}"
        assert line in PAGE.read_text()


def test_a_setting_that_it_can_not_honour_is_refused(path: Path, tmp_path: Path) -> None:
    done = run("--set", "decoder.temperature=0.7", path=path, cwd=tmp_path)
    assert done.returncode == 1
    assert "backend metronome: a metronome neither samples nor adapts" in done.stderr


def test_the_doctor_lists_it(path: Path, tmp_path: Path) -> None:
    done = llem("doctor", "--json", path=path, cwd=tmp_path)
    backends = {one["name"]: one["why_not"] for one in json.loads(done.stdout)["backends"]}
    assert backends["metronome"] is None


def test_where_it_is_not_installed_the_names_that_are_there_are_told(tmp_path: Path) -> None:
    done = run(path=tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "'metronome' is not valid. Valid values: llamacpp, pytorch," in done.stderr
    assert len(done.stderr.splitlines()) == 2
