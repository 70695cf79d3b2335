"""The packages of the pages, installed as a third party's and measured with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, File, parts

from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.windows import WindowsResult

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def installed(page: str, folder: Path) -> Path:
    """A folder to put on the path, into which pip has installed the package of a page."""
    source, target = folder / "source", folder / "site"
    source.mkdir()
    for part in parts((ROOT / "docs" / "guides" / page).read_text(encoding="utf-8")):
        if isinstance(part, File):
            (source / part.name).write_text(part.text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", target, source], check=True, timeout=120)
    return target


def llem(*arguments: str, path: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", *arguments],
        env={**os.environ, "PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def meters(path: Path, **environment: str) -> dict[str, Any]:
    return {
        one["name"]: one for one in json.loads(llem("doctor", "--json", path=path, **environment))["meters"]
    }


def test_a_meter_of_a_package_measures_a_command(tmp_path: Path) -> None:
    site = installed("adding-a-meter.md", tmp_path)
    supply = tmp_path / "power_uw"
    assert "start the driver" in meters(site, SUPPLY=str(supply))["supply"]["why_not"]
    supply.write_text("5000000\n")
    assert meters(site, SUPPLY=str(supply))["supply"]["why_not"] is None
    options = ["--meter", "supply", "-n", "3", "-o", str(tmp_path / "results"), "-q"]
    llem("exec", *options, "--", "sleep", "3", path=site, SUPPLY=str(supply))
    (folder,) = (tmp_path / "results").iterdir()
    result = WindowsResult.load(folder)
    assert (result.method, result.boundary) == ("sampled", "host")
    energy, seconds = result.windows[0].energy, result.windows[0].duration_s
    assert energy.value == pytest.approx(5 * seconds, rel=0.01)
    assert energy.systematic is not None
    low, high = energy.systematic
    assert low == pytest.approx(seconds * (0.95 * 5 - 0.5), rel=0.02)
    assert high == pytest.approx(seconds * (1.05 * 5 + 0.5), rel=0.02)


def test_a_dataset_of_a_package_is_measured_with(tmp_path: Path) -> None:
    site = installed("adding-a-dataset.md", tmp_path)
    options = ["-b", "simulated", "--model", "any", "--dataset", "sums", "-n", "4", "--preset", "smoke"]
    llem("run", *options, "-o", str(tmp_path / "results"), "-q", path=site)
    (folder,) = (tmp_path / "results").iterdir()
    result = ExperimentResult.load(folder)
    assert result.dataset is not None
    assert result.dataset.skipped == ()
    assert result.tokens.output == 8 * result.tokens.requests
