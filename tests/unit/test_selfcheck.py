"""The client is checked against a server that knows its own times, each figure against a limit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from stub_process import stub_server

from llenergymeasure.backends.openai import selfcheck
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.doctor.selfcheck import checks
from llenergymeasure.records.client import ClientLag, ClientLimits, ClientRate, ClientTimes

pytest.importorskip("aiohttp", reason="the extra openai is not installed")

LLEM = [sys.executable, "-m", "llenergymeasure", "selfcheck"]
GOOD = ClientLimits(
    times=(
        ClientTimes(1, 100, (0.1e-3, 0.5e-3), (10e-6, 0.1e-3)),
        ClientTimes(16, 480, (0.2e-3, 2e-3), (50e-6, 1e-3)),
    ),
    rate=ClientRate(64, 6000, 3000.0, 0.2e-3),
    lag=ClientLag(500.0, 1500, 499.9, (0.5e-3, 1.5e-3)),
)


def test_each_figure_is_held_against_its_limit() -> None:
    assert all(one.ok for one in checks(GOOD))
    late = replace(GOOD, lag=replace(GOOD.lag, lag_s=(0.5e-3, 2.5e-3), achieved_per_second=490.0))
    assert [(one.figure, one.limit) for one in checks(late) if not one.ok] == [(490.0, 497.5), (2.5e-3, 2e-3)]
    slow = replace(GOOD, rate=replace(GOOD.rate, per_second=300.0, cpu_s_per_request=3e-3))
    assert [one.figure for one in checks(slow) if not one.ok] == [300.0, 3e-3]
    one, several = GOOD.times
    biased = replace(GOOD, times=(replace(one, ttft_bias_s=(0.4e-3, 0.9e-3)), several))
    assert [one.figure for one in checks(biased) if not one.ok] == [0.4e-3]


async def measured(url: str) -> tuple[ClientTimes, ClientRate, ClientLag]:
    async with Client(url, key=None, request_timeout_s=20) as client:
        return (
            await selfcheck.times(client, 4, 24),
            await selfcheck.rate(client, 4, 0.5),
            await selfcheck.lag(client, 50.0, 0.4),
        )


def test_what_the_server_takes_is_no_bias_of_the_client() -> None:
    with stub_server(first_s=0.2, each_s=0.04) as url:
        times, rate, lag = asyncio.run(measured(url))
    assert (times.concurrency, times.requests) == (4, 24)
    assert 0 < times.ttft_bias_s[0] < 0.1
    assert 0 <= times.itl_bias_s[0] < 0.03
    # four at a time, each of which takes 0.48 s
    assert rate.requests == 4
    assert rate.per_second == 8
    assert lag.requests == 20
    assert 0 <= lag.lag_s[0] <= lag.lag_s[1]


def test_the_command_prints_every_figure_as_an_object() -> None:
    done = subprocess.run([*LLEM, "--json"], capture_output=True, check=False, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(one["concurrency"], one["requests"]) for one in said["times"]] == [(1, 100), (16, 480)]
    assert said["rate"]["concurrency"] == 64
    assert said["lag"]["requests"] == 1500
    assert len(said["checks"]) == 12
    assert all(one["ok"] is (one["figure"] <= one["limit"]) ^ one["is_least"] for one in said["checks"])


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize(("number", "outcome"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_of_it_outlives_the_command(number: int, outcome: int) -> None:
    process = subprocess.Popen(LLEM, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(found := descendants(process.pid)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == outcome
    until = time.monotonic() + 60
    while any(Path(f"/proc/{one.pid}").exists() and one.is_running() for one in found):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_without_aiohttp_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['aiohttp'] = None\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        LLEM, capture_output=True, check=False, text=True, timeout=60, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 1
    assert "[openai]" in done.stderr
    assert "Traceback" not in done.stderr
