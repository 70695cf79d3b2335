"""Is llem's client of servers as fast as a bare one, and are its times those of the server?

    python -m benchmarks.loadgen [--quick] [--hour] [--environments DIR]

The stub server runs in a process of its own. llem and a bare aiohttp client take turns; guidellm and aiperf,
each in an environment that is made for it, follow. About eight minutes of two processors, quick three. With
--hour the soak takes an hour rather than two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import platformdirs

from benchmarks.accuracy.peers import Peer, install
from benchmarks.loadgen.peers import COMMANDS, REQUIREMENTS, environ
from benchmarks.overhead.turns import Row, ratio, turns

TOOLS = Path(__file__).parent / "tools"
USERS, RATE, SOAK_RATE, FEW = 64, 500, 200, 20
SLOW = {"first_s": 0.01, "each_s": 0.004}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each is done."""

    pairs: int = 4
    window_s: float = 3.0
    peer_requests: int = 1000
    times: int = 400
    open_s: float = 10.0
    soak_s: float = 120.0


QUICK = Sizes(pairs=3, window_s=1.5, peer_requests=300, times=160, open_s=4.0, soak_s=10.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.loadgen", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hour", action="store_true", help="soak for an hour")
    parser.add_argument(
        "--environments",
        type=Path,
        default=platformdirs.user_cache_path("llenergymeasure") / "bench-loadgen",
        help="where the other tools are installed, once",
    )
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    soak_s = 3600.0 if given.hour else sizes.soak_s
    peers = install(given.environments, REQUIREMENTS)
    for peer in peers.values():
        print(f"{peer.name}: {peer.version or peer.reason}", file=sys.stderr)
    print(f"{os.cpu_count()} processors, load average before: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    missed = 0
    print("| client | figure | target | |\n|---|---|---|---|", flush=True)
    for row in _rows(peers, sizes, soak_s):
        verdict = "" if row.met is None else "met" if row.met else "missed"
        missed += verdict == "missed"
        print(f"| {row.name} | {row.figure} | {row.target} | {verdict} |", flush=True)
    sys.exit(bool(missed))


def _rows(peers: Mapping[str, Peer], sizes: Sizes, soak_s: float) -> Iterator[Row]:
    yield from _closed(peers, sizes)
    yield from _times(peers["aiohttp"], sizes)
    yield from _open(sizes)
    yield from _outside(peers)
    yield _soak(soak_s)


def _closed(peers: Mapping[str, Peer], sizes: Sizes) -> Iterator[Row]:
    ours, bare = [], []
    with stub() as url:
        for is_ours in turns(sizes.pairs):
            if is_ours:
                ours.append(llem(url, {"concurrency": USERS}, str(sizes.window_s)))
            else:
                bare.append(with_bare(peers["aiohttp"], "closed", url, USERS, sizes.window_s))
    name = f"closed loop, {USERS} users, 8 tokens, no latency"
    each = [[one["window_s"] / one["requests"] for one in side] for side in (ours, bare)]
    fast = ratio(list(zip(*each, strict=True)))
    rate = 1 / median(each[0])
    yield Row(
        f"{name}, requests/s",
        f"{fast} × the bare client ({rate:.0f} and {1 / median(each[1]):.0f}/s)",
        "≥ 0.8 ×",
        fast.value >= 0.8,
    )
    cpu = [median(one["cpu_s"] / one["requests"] for one in side) for side in (ours, bare)]
    yield Row(
        "CPU per request",
        f"{cpu[0] / cpu[1]:.2f} × the bare client ({cpu[0] * 1e6:.0f} and {cpu[1] * 1e6:.0f} µs)",
        "≤ 2 ×",
        cpu[0] <= 2 * cpu[1],
    )
    for peer, least in (("aiperf", 3), ("guidellm", 8)):
        if (reason := peers[peer].reason) is not None:
            yield Row(f"{name} and {peer}", reason)
            continue
        theirs = [_peer(peers[peer], users=USERS, requests=sizes.peer_requests) for _ in range(2)]
        its = median(one.per_second for one in theirs)
        yield Row(
            f"{name}, beside {peer}",
            f"{rate / its:.1f} × ({rate:.0f} and {its:.0f}/s)",
            f"≥ {least} ×",
            rate >= least * its,
        )


def _times(bare: Peer, sizes: Sizes) -> Iterator[Row]:
    for users in (1, 16):
        ours, theirs = [], []
        for is_ours in turns(sizes.pairs):
            with stub(**SLOW) as url:
                if is_ours:
                    ours.append(llem(url, {"concurrency": users}, "times", str(sizes.times)))
                else:
                    theirs.append(_bare_bias(bare, url, users, sizes.times))
        p50, p99 = (median(one["ttft_bias_s"][at] for one in ours) for at in (0, 1))
        its = [median(one[at] for one in theirs) for at in (0, 1)]
        yield Row(
            f"TTFT bias at concurrency {users}, p50 and p99",
            f"{p50 * 1e3:.2f} and {p99 * 1e3:.2f} ms (bare client {its[0] * 1e3:.2f} and {its[1] * 1e3:.2f})",
            "≤ 0.3 and ≤ 1 ms" if users == 1 else "≤ the bare client's + 10 %",
            p50 <= 0.3e-3 and p99 <= 1e-3 if users == 1 else p50 <= 1.1 * its[0] and p99 <= 1.1 * its[1],
        )
        gap_s = median(one["itl_bias_s"][0] for one in ours)
        yield Row(
            f"ITL error at concurrency {users}, p50",
            f"{gap_s * 1e6:.0f} µs",
            "≤ 50 µs",
            gap_s <= 50e-6,
        )


def _bare_bias(bare: Peer, url: str, users: int, requests: int) -> tuple[float, float]:
    done = with_bare(bare, "times", url, users, requests)
    theirs = {one["body"]["prompt"][0]: one for one in told(url)["requests"]}
    bias_s = sorted(
        (first_ns - sent_ns - theirs[number]["sent_ns"][0] + theirs[number]["arrived_ns"]) / 1e9
        for number, sent_ns, first_ns in done
    )
    return median(bias_s), bias_s[round(0.99 * (len(bias_s) - 1))]


def _open(sizes: Sizes) -> Iterator[Row]:
    with stub() as url:
        done = llem(url, {"arrivals": "constant", "rate": RATE}, str(sizes.open_s))
    achieved = done["sent"] / done["window_s"]
    yield Row(
        f"open loop at {RATE} requests/s, achieved",
        f"{achieved:.1f}/s",
        "within 0.5 %",
        abs(achieved / RATE - 1) <= 0.005,
    )
    late_s = done["lag_p99_s"]
    yield Row("its lag, p99", f"{late_s * 1e3:.2f} ms", "< 2 ms", late_s < 2e-3)


def _outside(peers: Mapping[str, Peer]) -> Iterator[Row]:
    """Of the whole process: from its start to its end, less from the first request to the last answer."""
    with stub() as url:
        start_s = time.monotonic()
        llem(url, {"concurrency": 4}, "finite", str(FEW))
        outside_s = time.monotonic() - start_s - served(url, FEW).window_s
    name = f"time outside the window for {FEW} requests"
    yield Row(name, f"{outside_s:.2f} s", "< 1 s", outside_s < 1)
    for peer in COMMANDS:
        if peers[peer].reason is None:
            yield Row(f"{name}, {peer}", f"{_peer(peers[peer], users=4, requests=FEW).outside_s:.1f} s")


def _soak(seconds: float) -> Row:
    with stub() as url:
        done = llem(url, {"arrivals": "poisson", "rate": SOAK_RATE}, str(seconds))
        seen, counts = told(url)["counts"], done["counts"]
    lost = counts["sent"] - counts["answered"] - counts["failed"] - counts["cancelled"]
    apart = counts["sent"] - seen["received"]
    grown = done["growth_bytes"] / (0.75 * seconds * SOAK_RATE)
    return Row(
        f"{seconds:.0f} s of soak at {SOAK_RATE} requests/s",
        f"{counts['sent']:,} sent, {lost} unaccounted for, {apart} the server did not see, "
        f"{done['growth_bytes'] / 1e6:.1f} MB more ({grown:.0f} bytes a request)",
        "none, memory flat but for a row of numbers a request (≤ 200 bytes)",
        # In less than a minute buffers and tables still take their size.
        lost == apart == 0 and (grown <= 200 or seconds < 60),
    )


@dataclass(frozen=True, slots=True)
class ServedWindow:
    """What the stub saw: so many requests a second, from the first one's arrival to the last one's end."""

    per_second: float
    window_s: float
    outside_s: float = 0.0


def served(url: str, requests: int, wall_s: float = 0.0) -> ServedWindow:
    done = [one for one in told(url)["requests"] if one["outcome"] == "answered"][-requests:]
    first_ns, last_ns = min(one["arrived_ns"] for one in done), max(one["ended_ns"] for one in done)
    window_s = (last_ns - first_ns) / 1e9
    return ServedWindow(len(done) / window_s, window_s, wall_s - window_s)


def _peer(peer: Peer, *, users: int, requests: int) -> ServedWindow:
    assert peer.python is not None
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        command = COMMANDS[peer.name](peer.python, url, Path(folder), users=users, requests=requests)
        start_s = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environ(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{peer.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return served(url, requests, time.monotonic() - start_s)


def llem(url: str, load: Mapping[str, object], *how: str) -> Any:
    command = [sys.executable, str(TOOLS / "with_llem.py"), url, json.dumps(load), *how]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def with_bare(peer: Peer, mode: str, url: str, users: int, amount: float) -> Any:
    assert peer.python is not None, peer.reason
    command: Sequence[str] = [str(peer.python), str(TOOLS / "bare.py"), mode, url, str(users), str(amount)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environ()).stdout)


@contextmanager
def stub(**behaviour: object) -> Iterator[str]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llenergymeasure.simulation.server", "--ends-with-stdin"),
            *("--behaviour", json.dumps(behaviour)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def told(url: str) -> Any:
    with urlopen(f"{url}/stub", timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
