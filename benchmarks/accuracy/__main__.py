"""How far is each tool's energy from the truth? One command: `python -m benchmarks.accuracy`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from benchmarks.accuracy import cases, picture, realclock, recorder, recordings, virtual
from benchmarks.accuracy.peers import Peer, install
from benchmarks.accuracy.realclock import Measured, Tool
from benchmarks.accuracy.table import Row, put_into, render

RESULTS = Path(__file__).parent / "results"
# What a tool takes to start up on a processor that others use as well.
_START_S = 4.0
PARTS = ("real", "virtual", "recordings", "recorder")


def main() -> int:
    options = _options()
    began = datetime.now(UTC)
    rows: list[Row] = []
    measured: list[Measured] = []
    peers: dict[str, Peer] = {}
    if "real" in options.only:
        peers = install(options.environments)
        for peer in peers.values():
            print(f"{peer.name}: {peer.version or peer.reason}", file=sys.stderr)
        tools = realclock.all_tools(peers, version("llenergymeasure"))
        measured, found = _real(tools, quick=options.quick, at_once=options.at_once)
        rows += found
    print(f"computing, after {_since(began)} s …", file=sys.stderr)
    if "virtual" in options.only:
        rows += virtual.rows(20 if options.quick else 200)
    if "recordings" in options.only:
        rows += recordings.rows()
    if "recorder" in options.only:
        print(f"recording, after {_since(began)} s …", file=sys.stderr)
        rows += [_cost(one) for one in recorder.rows(quick=options.quick)]
    facts = _facts(peers, began=began, quick=options.quick)
    printed = _write(options.results, rows, measured, facts)
    if options.page is not None:
        options.page.write_text(put_into(options.page.read_text(), printed))
        if measured:
            shutil.copy(options.results / "accuracy.png", options.page.with_suffix(".png"))
    print(printed)
    missed = [row for row in rows if row.tool.startswith("llem") and row.met is False]
    print(
        f"llem misses {len(missed)} of its targets" if missed else "llem meets every target", file=sys.stderr
    )
    print(f"Saved: {options.results}", file=sys.stderr)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer windows: a look, in under three minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts instead of all")
    parser.add_argument("--at-once", type=int, default=54, help="tools that measure at the same time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where table, JSON and plot go")
    parser.add_argument("--page", type=Path, help="a page of the documentation to put table and plot into")
    parser.add_argument(
        "--environments",
        type=Path,
        default=user_cache_path("llenergymeasure") / "bench-accuracy",
        help="where the other tools are installed",
    )
    return parser.parse_args()


def _real(tools: dict[str, Tool], *, quick: bool, at_once: int) -> tuple[list[Measured], list[Row]]:
    steps_s = (0.1,) if quick else (0.02, 0.05, 0.1)
    counts = {1.0: 6, 5.0: 2} if quick else {1.0: 20, 5.0: 8, 10.0: 5}
    jobs = [*cases.accuracy_jobs(steps_s=steps_s, counts=counts, seed=20), *cases.fault_jobs(quick=quick)]
    with tempfile.TemporaryDirectory(prefix="llem-accuracy-") as directory:
        measured = realclock.measure(
            jobs, tools, directory=Path(directory), at_once=at_once, start_s=_START_S
        )
    return measured, realclock.rows(measured, tools, jobs)


def _cost(found: recorder.Row) -> Row:
    section = "What recording costs, and that it stays accurate meanwhile"
    return Row(section, found.name, "llem", 1, target=found.target, met=found.passed, note=found.figure)


def _write(results: Path, rows: list[Row], measured: list[Measured], facts: dict[str, Any]) -> str:
    """Keep everything in `results`, and return what there is to print."""
    results.mkdir(parents=True, exist_ok=True)
    record = facts | {
        "rows": [asdict(row) for row in rows],
        "windows": [asdict(one) | {"error": one.error} for one in measured],
    }
    (results / "accuracy.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    printed = f"{_heading(facts)}\n\n{render(rows)}"
    (results / "accuracy.md").write_text(printed)
    if measured:
        picture.draw(results / "accuracy.png", measured, cases.LIMITS, section=cases.REAL)
    return printed


def _facts(peers: dict[str, Peer], *, began: datetime, quick: bool) -> dict[str, Any]:
    return {
        "began": began.isoformat(timespec="seconds"),
        "seconds": _since(began),
        "quick": quick,
        "versions": {"llem": version("llenergymeasure"), "Python": platform.python_version()}
        | {name: peer.version or peer.reason for name, peer in peers.items()},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()},
    }


def _since(began: datetime) -> int:
    return round((datetime.now(UTC) - began).total_seconds())


def _heading(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = f"{facts['machine']['system']} with {facts['machine']['cpus']} CPUs"
    extent = "a quick look" if facts["quick"] else "the whole benchmark"
    return f"{facts['began'][:10]}, {extent} in {facts['seconds']} s on {machine}: {versions}."


if __name__ == "__main__":
    sys.exit(main())
