"""Scripts that measure themselves, each in a process of its own, on simulated boards where they want some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from benchmarks.boards.scenario import Board, Change, Scenario, waveform, write_scenario

from llenergymeasure import simulation

STAND_IN = Path(__file__).parents[2] / "benchmarks/boards/pynvml"
SOURCE = Path(simulation.__file__).parents[2]
BOARD = Board(
    uuid="GPU-a",
    idle_w=80.0,
    power=(
        Change("set", 0.0, given={"watts": 80.0}),
        Change("square", 1.0, 600.0, given={"levels_w": (300.0, 120.0), "period_s": 0.37, "duty": 0.4}),
    ),
)


def environ(directory: Path, boards: Sequence[Board] = ()) -> dict[str, str]:
    """For a child: nothing of this user's, and the boards, whose power begins now."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLEM_", "CUDA_"))}
    kept |= {"HOME": str(directory), "LLEM_LOCK_DIR": str(directory), "PYTHONPATH": str(SOURCE)}
    if boards:
        scenario = Scenario(time.monotonic_ns(), tuple(boards))
        write_scenario(directory / "scenario.json", scenario)
        kept |= {
            "PYTHONPATH": os.pathsep.join([str(STAND_IN), str(SOURCE)]),
            "LLEM_SIMULATED_NVML": str(directory / "scenario.json"),
        }
    return kept


def start(
    directory: Path, text: str, *, boards: Sequence[Board] = (), arguments: Iterable[str] = ()
) -> subprocess.Popen[str]:
    """The script as a running process."""
    path = directory / "script.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=environ(directory, boards),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    directory: Path, text: str, *, boards: Sequence[Board] = (), arguments: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The script, ended."""
    process = start(directory, text, boards=boards, arguments=arguments)
    out, err = process.communicate(timeout=100)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    """The object that a script printed on its last line."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def named(result: Any, name: str) -> Any:
    (found,) = [one for one in result["windows"] if one["name"] == name]
    return found


def codes(result: Any) -> set[str]:
    return {one["code"] for one in result["warnings"]}


def truth_j(directory: Path, start_ns: int, end_ns: int) -> float:
    """What the board of the last script drew."""
    from benchmarks.boards.scenario import read_scenario

    scenario = read_scenario(directory / "scenario.json")
    return waveform(scenario.boards[0], scenario.start_ns).energy_j(start_ns, end_ns)


def recorders(directory: Path) -> list[psutil.Process]:
    """The recorders that belong to scripts in that folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if "llenergymeasure.measure.record" in " ".join(process.cmdline()[1:3]) and process.environ().get(
                "HOME"
            ) == str(directory):
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone_within_s(directory: Path, seconds: float) -> float | None:
    """How long it took until no recorder was left; None where one still is."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if not recorders(directory):
            return time.monotonic() - began
        time.sleep(0.02)
    return None
