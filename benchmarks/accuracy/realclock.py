"""What do the tools say of boards whose true energy is known, on the real clock, side by side?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.accuracy.cases import LIMITS, Job
from benchmarks.accuracy.peers import Peer
from benchmarks.accuracy.table import Row, at_most, row_of_errors
from benchmarks.boards.scenario import Scenario, waveform, write_scenario

SCRIPTS = Path(__file__).parent / "tools"
STAND_IN = Path(__file__).parents[1] / "boards/pynvml"
_AFTER_S = 60.0
# What adding up in floating point may do to a sum.
_GRAIN = 1e-9
_MISSED = "the tool had not started in time"
_NO_FIGURE = "a reason and no figure"


@dataclass(frozen=True, slots=True)
class Tool:
    """A script and the interpreter that runs it; `reason` says why there is no interpreter."""

    name: str
    version: str
    script: Path
    python: Path | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a tool said of one window. `joules` is None where `reason` says why; so is `truth_j` without a
    device. Times are CLOCK_MONOTONIC.
    """

    section: str
    case: str
    job: str
    tool: str
    begin_ns: int
    end_ns: int
    truth_j: float | None
    joules: float | None
    low: float | None
    high: float | None
    reason: str | None

    @property
    def error(self) -> float | None:
        if self.joules is None or self.truth_j is None:
            return None
        return self.joules / self.truth_j - 1


def all_tools(peers: Mapping[str, Peer], llem_version: str) -> dict[str, Tool]:
    here = Path(sys.executable)
    tools = [
        Tool("llem", llem_version, SCRIPTS / "with_llem.py", here),
        Tool("llem Monitor", llem_version, SCRIPTS / "with_monitor.py", here),
        Tool("two reads", "", SCRIPTS / "two_reads.py", here),
        Tool("100 ms trapezoid", "", SCRIPTS / "trapezoid.py", here),
    ]
    tools += [
        Tool(name, peer.version or "", SCRIPTS / f"with_{name}.py", peer.python, peer.reason)
        for name, peer in peers.items()
    ]
    return {tool.name: tool for tool in tools}


def measure(
    jobs: Sequence[Job], tools: Mapping[str, Tool], *, directory: Path, at_once: int, start_s: float
) -> list[Measured]:
    """Every job by each of its tools that is there, `at_once` at a time, those that want it alone last.

    A scenario begins once its tool has had the time to start up: `start_s` for one, and more for those that
    start at once on few processors.
    """
    pairs = [(job, tools[name]) for job in jobs for name in job.tools if tools[name].python is not None]
    together = [(job, tool) for job, tool in pairs if tool.name not in job.alone]
    alone = [(job, tool) for job, tool in pairs if tool.name in job.alone]
    found: list[Measured] = []
    lead_s = start_s * (1 + min(at_once, len(together)) / (os.cpu_count() or 1) / 2)
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(_run, job, tool, directory, lead_s) for job, tool in together]
        for number, done in enumerate(as_completed(waiting), start=1):
            found += done.result()
            print(f"\r{number} of {len(pairs)} measured", end="", file=sys.stderr, flush=True)
    for number, (job, tool) in enumerate(alone, start=len(together) + 1):
        found += _run(job, tool, directory, start_s)
        print(f"\r{number} of {len(pairs)} measured", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    order = {job.name: number for number, job in enumerate(jobs)}
    return sorted(found, key=lambda one: (order[one.job], one.tool, one.begin_ns))


def _run(job: Job, tool: Tool, directory: Path, lead_s: float) -> list[Measured]:
    place = directory / f"{job.name}-{tool.name.replace(' ', '-')}"
    place.mkdir(parents=True)
    scenario = Scenario(time.monotonic_ns() + round(lead_s * 1e9), job.boards, job.init_fails_with)
    write_scenario(place / "scenario.json", scenario)
    spans = [
        [
            scenario.start_ns + round(one.begin_s * 1e9),
            round((one.end_s - one.begin_s) * 1e9),
            one.between_silences,
        ]
        for one in job.windows
    ]
    (place / "plan.json").write_text(json.dumps(spans))
    try:
        done = subprocess.run(
            [str(tool.python), str(tool.script), str(place / "plan.json")],
            env=_environ(job, place),
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            timeout=lead_s + job.windows[-1].end_s + _AFTER_S,
        )
    except subprocess.TimeoutExpired:
        return list(_judged(job, tool, scenario, [], f"gave no answer within {_AFTER_S:.0f} s"))
    (place / "stderr.txt").write_text(done.stderr)
    seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return list(_judged(job, tool, scenario, seen, _last(done.stderr) if done.returncode else None))


def _environ(job: Job, place: Path) -> dict[str, str]:
    """The stand-in instead of the binding; a home of its own, so that nobody's settings count."""
    programs = place / "bin"
    programs.mkdir()
    if job.init_fails_with is None:
        # codecarbon looks for NVIDIA boards by whether nvidia-smi runs.
        smi = programs / "nvidia-smi"
        smi.write_text("#!/bin/sh\nexit 0\n")
        smi.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "CODECARBON_"))}
    return kept | {
        "PYTHONPATH": str(STAND_IN),
        "LLEM_SIMULATED_NVML": str(place / "scenario.json"),
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "HOME": str(place),
        # The boards of different scenarios bear the same names.
        "LLEM_LOCK_DIR": str(place),
        **job.environ,
    }


def _judged(
    job: Job, tool: Tool, scenario: Scenario, seen: Iterable[Mapping[str, object]], failure: str | None
) -> Iterator[Measured]:
    power = None if job.measured is None else waveform(job.boards[job.measured], scenario.start_ns)
    by_index = {line["index"]: line for line in seen}
    for index, window in enumerate(job.windows):
        line = by_index.get(index)
        if line is None:
            begin_ns, end_ns = (
                scenario.start_ns + round(at_s * 1e9) for at_s in (window.begin_s, window.end_s)
            )
            line = {"joules": None, "reason": failure or _MISSED}
        else:
            begin_ns, end_ns = int(str(line["begin_ns"])), int(str(line["end_ns"]))
        yield Measured(
            section=job.section,
            case=window.case,
            job=job.name,
            tool=tool.name,
            begin_ns=begin_ns,
            end_ns=end_ns,
            truth_j=None if power is None else power.energy_j(begin_ns, end_ns),
            joules=_number(line.get("joules")),
            low=_number(line.get("low")),
            high=_number(line.get("high")),
            reason=None if line.get("reason") is None else str(line["reason"]),
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "ended without a word"


def rows(
    measured: Sequence[Measured],
    tools: Mapping[str, Tool],
    jobs: Sequence[Job],
    limits: Mapping[str, float] = LIMITS,
) -> list[Row]:
    """One row per case and tool, in the order of the jobs, with those that could not be run."""
    keys = dict.fromkeys(
        (job.section, window.case, name) for job in jobs for window in job.windows for name in job.tools
    )
    found = {key: [one for one in measured if (one.section, one.case, one.tool) == key] for key in keys}
    return [_row(key, tools[key[2]], ones, limits.get(key[1])) for key, ones in found.items()]


def _row(key: tuple[str, str, str], tool: Tool, found: Sequence[Measured], limit: float | None) -> Row:
    section, case, _ = key
    label = f"{tool.name} {tool.version}".strip()
    # A machine too busy to start a tool in time is no fault of the tool's.
    missed = sum(one.reason == _MISSED for one in found)
    found = [one for one in found if one.reason != _MISSED]
    if not found:
        return row_of_errors((section, case, label), [], limit=limit, note=tool.reason or _MISSED)
    late = f"; {missed} more missed, {_MISSED}" if missed else ""
    if all(one.truth_j is None for one in found):
        said = [one for one in found if one.joules is not None]
        note = (f"said {said[0].joules:g} J" if said else found[0].reason or "") + late
        return Row(section, case, label, len(found), target=_NO_FIGURE, met=not said, note=note)
    errors = [error for one in found if (error := one.error) is not None]
    silent = [one for one in found if one.joules is None]
    note = f"{len(silent)} of {len(found)} without a figure: {silent[0].reason}" if silent else ""
    note = (note + late).removeprefix("; ")
    if not errors:
        met = None if limit is None else False
        return Row(section, case, label, len(found), target=at_most(limit), met=met, note=note)
    held = [
        one.low - _GRAIN * one.truth_j <= one.truth_j <= one.high + _GRAIN * one.truth_j
        for one in found
        if one.low is not None and one.high is not None and one.truth_j is not None
    ]
    row = row_of_errors((section, case, label), errors, limit=limit, held=held, note=note)
    return replace(row, met=False) if silent and limit is not None else row
