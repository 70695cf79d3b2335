"""What runs leave in the temporary folder, and who clears it after a run that was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.measure.scratch import LONGEST_BYTES, scratch, sweep, temporary_in

LLEM = Path(sys.executable).with_name("llem")
RUN = ["run", "-b", "simulated", "-m", "any", "-n", "4", "--set", "simulated.load_s=0"]
QUICK = ["baseline.seconds=1", "passes.seconds=0.2", "passes.count=3", "repeats.count=2"]
DAY_S = 86_400.0
UNTIDY = """
import pathlib, sys, tempfile
if "llenergymeasure.measure.worker" in sys.orig_argv:
    tempfile.mkstemp(prefix="socket-")
    pathlib.Path(tempfile.mkdtemp(prefix="inductor-"), "kernel").write_text("text")
    print("left in", tempfile.gettempdir(), file=sys.stderr)
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's temporary folder, with a path as short as in life, and nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)


def aged(folder: Path, age_s: float) -> Path:
    folder.mkdir()
    (folder / "trace.parquet").write_text("readings")
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


@pytest.mark.timeout(120)
def test_what_a_worker_leaves_in_its_temporary_folder_goes_with_the_run(short: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNTIDY)
    settings = [part for value in QUICK for part in ("--set", value)]
    done = subprocess.run(
        [LLEM, *RUN, *settings, "-o", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (saved,) = (tmp_path / "out").iterdir()
    logs = [(saved / "runs" / number / "worker.log").read_text() for number in ("1", "2")]
    assert all(f"left in {short}/llem-run-" in log for log in logs)
    assert list(short.iterdir()) == []
    assert not list(saved.rglob("tmp"))
    assert not [path for path in saved.rglob("*") if path.name.startswith(("socket-", "inductor-", "kernel"))]


def test_a_worker_has_a_temporary_folder_of_its_own_in_which_sockets_fit(short: Path) -> None:
    with temporary_in(short) as folder:
        assert folder == short / "tmp"
        assert folder.is_dir()
        (folder / "socket").touch()
    assert not folder.exists()
    long = short / ("x" * LONGEST_BYTES)
    long.mkdir()
    with temporary_in(long) as folder:
        assert folder is not None
        assert len(os.fsencode(folder)) <= LONGEST_BYTES
        (folder / "socket").touch()
        # What an engine writes goes to the disk that was asked for.
        assert (long / "tmp" / "socket").exists()
    assert not folder.parent.exists()
    assert list(long.iterdir()) == []


def test_what_a_killed_run_left_goes_after_a_day(short: Path) -> None:
    old = aged(short / "llem-run-abcd_123", DAY_S + 60)
    young = aged(short / "llem-run-abcd_124", DAY_S - 60)
    with scratch() as folder:
        assert not old.exists()
        assert young.is_dir()
        assert folder.parent == short
    assert list(short.iterdir()) == [young]


def test_a_run_that_still_needs_its_folder_keeps_it_however_old(short: Path) -> None:
    with scratch() as folder:
        os.utime(folder, (0, 0))
        sweep()
        assert folder.is_dir()
    assert not folder.exists()


def test_without_a_place_for_temporary_files_the_way_out_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(PreFlightError) as caught, scratch():
        pass
    assert "TMPDIR" in str(caught.value.hint)


def test_nothing_but_folders_of_runs_is_swept_away(short: Path) -> None:
    named = aged(short / "llem-run-of-mine-on-tuesday", 9 * DAY_S)
    results = aged(short / "llem-results", 9 * DAY_S)
    file = short / "llem-run-abcd_125"
    file.touch()
    os.utime(file, (0, 0))
    target = aged(short / "elsewhere", 9 * DAY_S)
    link = short / "llem-run-abcd_126"
    link.symlink_to(target)
    os.utime(link, (0, 0), follow_symlinks=False)
    sweep()
    assert all(path.exists() for path in (named, results, file, target, link))
