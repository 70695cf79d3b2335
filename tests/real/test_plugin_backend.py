"""The package in docs/guides/adding-a-backend.md, installed as a third party's and measured with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import llenergymeasure
from llenergymeasure import ExperimentResult

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "adding-a-backend.md"
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
        [sys.executable, "-m", "llenergymeasure", *arguments],
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
    options = ["--batch-size", "4", "--set", "metronome.s_per_token=0.01"]
    done = run(*options, "--output", "out", path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    result = ExperimentResult.load(folder)
    assert result.session.arguments == {"batch_size": 4, "s_per_token": 0.01}
    assert result.session.versions["llem-metronome"] == "1.0"
    assert result.tokens.pinned_ok is True
    assert result.tokens.output == 11 * result.tokens.requests
    assert result.origins["metronome.s_per_token"] == "flag"
    tpot, speed = result.performance.tpot_s.p50.value, result.performance.output_tokens_per_second.value
    assert tpot == pytest.approx(0.01, rel=0.2)
    assert speed == pytest.approx(4 / 0.01, rel=0.2)
    assert result.energy.per_output_token.value is not None


def test_its_result_is_read_where_it_is_not_installed(path: Path, tmp_path: Path) -> None:
    options = ["--batch-size", "4", "--set", "metronome.s_per_token=0.002"]
    done = run(*options, "--output", "out", path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    again = llem("recompute", str(folder), path=tmp_path, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    shown = llem("show", str(folder), "--json", path=tmp_path, cwd=tmp_path)
    assert json.loads(shown.stdout)["config"]["metronome"] == {"batch_size": 4, "s_per_token": 0.002}
    done = run("--set", "metronome.s_per_token=0.002", "--output", "other", path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (other,) = (tmp_path / "other").iterdir()
    both = llem("compare", str(folder), str(other), path=tmp_path, cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    assert "metronome.batch_size" in both.stdout


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_option_that_it_does_not_have_is_refused_as_the_page_shows(
    path: Path, tmp_path: Path, dry: list[str]
) -> None:
    done = run("--set", "metronome.s_per_tokens=2", *dry, path=path, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line in PAGE.read_text()


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("decoder.temperature=0.7", 1, "backend metronome: a metronome does not sample"),
        ("lora.path=adapter", 2, "the backend metronome takes none"),
    ],
)
def test_a_setting_that_it_can_not_honour_is_refused(
    path: Path, tmp_path: Path, setting: str, code: int, said: str
) -> None:
    done = run("--set", setting, path=path, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr


def test_the_doctor_lists_it(path: Path, tmp_path: Path) -> None:
    done = llem("doctor", "--json", path=path, cwd=tmp_path)
    backends = {one["name"]: one["why_not"] for one in json.loads(done.stdout)["backends"]}
    assert backends["metronome"] is None


def test_where_it_is_not_installed_the_names_that_are_there_are_told(tmp_path: Path) -> None:
    done = run(path=tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "'metronome' is not valid. Valid values: llamacpp, openai, pytorch," in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of llem with the page's engine as a folder in it, and the page's one line in the table."""
    source = tmp_path_factory.mktemp("grown")
    package = source / "llenergymeasure"
    shutil.copytree(Path(llenergymeasure.__file__).parent, package)
    (package / "backends" / "metronome").mkdir()
    engine = files_of_the_page()["llem_metronome.py"]
    (package / "backends" / "metronome" / "__init__.py").write_text(engine)
    (line,) = re.findall(r'^    "metronome": .*\n', PAGE.read_text(), re.MULTILINE)
    table = package / "config" / "engines" / "__init__.py"
    table.write_text(table.read_text().replace("\n}\n", f"\n{line}}}\n", 1))
    return source


def test_a_folder_and_a_line_make_an_engine_of_llem(grown: Path, tmp_path: Path) -> None:
    options = ["--batch-size", "4", "--set", "metronome.s_per_token=0.01", "--json"]
    done = run(*options, path=grown, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["session"]["arguments"] == {"batch_size": 4, "s_per_token": 0.01}
    assert result["config"]["metronome"] == {"batch_size": 4, "s_per_token": 0.01}
    assert result["performance"]["tpot_s"]["p50"]["value"] == pytest.approx(0.01, rel=0.2)
    stray = run("--set", "metronome.s_per_tokens=2", path=grown, cwd=tmp_path)
    assert stray.stderr.strip() in PAGE.read_text()
    backends = json.loads(llem("doctor", "--json", path=grown, cwd=tmp_path).stdout)["backends"]
    assert {"name": "metronome", "why_not": None} in backends
