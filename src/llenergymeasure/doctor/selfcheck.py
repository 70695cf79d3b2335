"""How fast and how true is llem's client here, against a server whose times are known?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue, TypeAdapter

from llenergymeasure.config import engines
from llenergymeasure.exceptions import BackendError
from llenergymeasure.measure.launch import close_pipe
from llenergymeasure.records.client import ClientLimits

_STUB = "llenergymeasure.simulation.server"
# Tokens that come one by one, and at once.
_SLOW: Mapping[str, JsonValue] = {"first_s": 0.01, "each_s": 0.004}
_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """A figure of the client, and what it should at most be, or where `is_least` at least."""

    what: str
    figure: float
    unit: Literal["s", "1/s"]
    limit: float
    is_least: bool = False

    @property
    def ok(self) -> bool:
        return self.figure >= self.limit if self.is_least else self.figure <= self.limit


def measure_client() -> ClientLimits:
    """Takes about ten seconds of two processors. BackendError where the client can't run or does not end."""
    with ExitStack() as stack:
        urls = [stack.enter_context(_stub(behaviour)) for behaviour in (_SLOW, {})]
        command = [sys.executable, "-m", engines.CLIENT_CHECK, *urls]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_WITHIN_S,
                check=False,
                # Ctrl-C is for the parent alone, which then ends this one.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"the client did not end within {_WITHIN_S:g} s",
                hint="what else runs on this machine leaves it no time",
            ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise BackendError(f"the client can't be checked: {said[-1]}")
    return TypeAdapter(ClientLimits).validate_json(done.stdout)


@contextmanager
def _stub(behaviour: Mapping[str, JsonValue]) -> Iterator[str]:
    """The URL of a server in a process of its own, which ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", _STUB, "--ends-with-stdin", "--behaviour", json.dumps(behaviour)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with ExitStack() as stack:
        stack.callback(close_pipe, process.stdout)
        stack.callback(close_pipe, process.stdin)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield process.stdout.readline().decode().strip()


def checks(found: ClientLimits) -> tuple[Check, ...]:
    """Each figure against its limit: of one request at once what a quiet machine keeps, of several what still
    leaves times of milliseconds to be believed.
    """
    one, several = found.times
    return (
        Check("TTFT bias, 1 request: p50", one.ttft_bias_s[0], "s", 0.3e-3),
        Check("TTFT bias, 1 request: p99", one.ttft_bias_s[1], "s", 1e-3),
        Check(f"TTFT bias, {several.concurrency} requests: p50", several.ttft_bias_s[0], "s", 1e-3),
        Check(f"TTFT bias, {several.concurrency} requests: p99", several.ttft_bias_s[1], "s", 5e-3),
        Check("ITL error, 1 request: p50", one.itl_bias_s[0], "s", 50e-6),
        Check("ITL error, 1 request: p99", one.itl_bias_s[1], "s", 1e-3),
        Check(f"ITL error, {several.concurrency} requests: p50", several.itl_bias_s[0], "s", 0.2e-3),
        Check(f"ITL error, {several.concurrency} requests: p99", several.itl_bias_s[1], "s", 5e-3),
        Check(f"closed loop of {found.rate.concurrency}", found.rate.per_second, "1/s", 1000, is_least=True),
        Check("CPU time of a request", found.rate.cpu_s_per_request, "s", 0.5e-3),
        Check(
            f"open loop at {found.lag.per_second:g}/s",
            found.lag.achieved_per_second,
            "1/s",
            0.995 * found.lag.per_second,
            is_least=True,
        ),
        Check("its lag: p99", found.lag.lag_s[1], "s", 2e-3),
    )
