"""How is the recorder on another host started, heard, and its clock compared with this one's?

Any command starts it that carries its standard input and output (ssh, srun, kubectl exec, docker exec). No
port is opened, and closing its input ends it.

Long because both ends of one conversation stand here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Self

from llenergymeasure.config.models import HostConfig
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.energy.recording.clock_offset import WINDOW_NS, quickest
from llenergymeasure.energy.recording.trace import domains_from_json, gaps_from_json, series_keys
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure.launch import close_pipe
from llenergymeasure.measure.marks import MARKS_VERSION
from llenergymeasure.records import Domain, Gap, RoundTrip, Sample, Window

# A login may take its time, and so may what a recorder imports from a disk in the network.
_HELLO_S, _READY_S, _ANSWER_S, _CAUGHT_UP_S = 60.0, 60.0, 10.0, 3.0
_END_S = 5.0
_FIRST_TRIPS = 24
_ASK_EVERY_NS = 250_000_000
# Reads come five times a second; without any for this long the host counts as lost until it speaks again.
_SILENT_NS = 3_000_000_000
_MOST_BANNER = 200
_TAIL = 300

_OF_PROCESSES = frozenset({"foreign_processes", "hidden_processes"})
_NO_METER = "none of its meters reads energy or power: see llem doctor there"


def with_hosts(chosen: Selection, hosts: Sequence[HostConfig], *, must_answer: bool) -> Selection:
    """The meters of this host, and those of the `hosts` that have any.

    EnergyError for a host that can't be reached, or that speaks another protocol; where it need not answer,
    as when it did in an earlier run, it is left out with the reason.
    """
    meters, unread = list(chosen.meters), list(chosen.unread)
    for host in hosts:
        meter = HostMeter(host)
        try:
            with meter:
                domains = meter.domains()
        except EnergyError as error:
            if must_answer:
                raise
            unread.append((f"{host.name}/host", f"host_lost: {error.message}"))
            continue
        if domains:
            meters.append(meter)
        else:
            unread.append((f"{host.name}/host", _NO_METER))
    return replace(chosen, meters=tuple(meters), unread=tuple(unread))


class HostMeter:
    """The meters of another host, read by a recorder there."""

    def __init__(self, host: HostConfig) -> None:
        self._host = host
        self._link: _Link | None = None
        self._domains: tuple[Domain, ...] = ()

    def why_unavailable(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        self._link = link = _Link(self._host)
        try:
            self._domains = link.open()
        except BaseException:
            link.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def parts(self) -> Sequence[_Link]:
        return [] if self._link is None else [self._link]

    def sample(self) -> Sequence[Sample]:
        return [] if self._link is None else self._link.sample()


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    said: str


class _Link:
    """One recorder elsewhere, while it is open. A thread of its own hears what it says."""

    period_s = 0.1
    driver_cpu_ns = 0

    def __init__(self, host: HostConfig) -> None:
        self._host = host
        self.domains: Sequence[str] = ()
        self._series: dict[int, tuple[str, str]] = {}
        self._heard = threading.Condition()
        self._sending = threading.Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._banner: deque[str] = deque(maxlen=_MOST_BANNER)
        self._samples: deque[Sample] = deque()
        self._gaps: list[Gap] = []
        self._trips: list[RoundTrip] = []
        self._asked: dict[int, int] = {}
        self._number = 0
        self._shift_ns = 0
        self._asked_ns = self._spoke_ns = self._read_ns = 0
        self._ended: _Ended | None = None
        self._why_lost: str | None = None
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> tuple[Domain, ...]:
        """What is measured there. EnergyError where it can't be found out."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it is closed with the link
        command = self._host.arguments
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for this program alone, which then ends that one.
                start_new_session=True,
            )
        except OSError as error:
            raise self._refusal(f"{command[0]}: {error.strerror}") from error
        threading.Thread(target=self._listen, daemon=True).start()
        version = self._expect("hello", _HELLO_S).get("version")
        if version != MARKS_VERSION:
            raise EnergyError(
                f"llem on {self._host.name} speaks version {version} of the recorder's protocol, and this "
                f"one speaks {MARKS_VERSION}",
                hint="install the same version of llenergymeasure on both",
            )
        self._expect("ready", _READY_S)
        for _ in range(_FIRST_TRIPS):
            self._ask_clock()
            self._wait(lambda: not self._asked, _ANSWER_S, "ask for the time")
        self._settle_on_shift()
        self._send({"do": "stream"})
        said = self._expect("streaming", _ANSWER_S)
        try:
            return self._named(domains_from_json(said["domains"]))
        except (KeyError, ValueError) as error:
            raise self._refusal("its domains are not what a recorder says") from error

    def _settle_on_shift(self) -> None:
        """All times from there are brought near those of here once; what is left is found out afterwards."""
        best = min(self._trips, key=lambda one: one.took_ns)
        self._shift_ns = (best.sent_ns + best.received_ns) // 2 - best.there_ns
        self._trips = [replace(one, there_ns=one.there_ns + self._shift_ns) for one in self._trips]
        self._read_ns = self._spoke_ns = time.monotonic_ns()

    def _named(self, found: Sequence[Domain]) -> tuple[Domain, ...]:
        """Those that measure, under the name of their host. A model of power sees processes of this run, and
        there are none of it there.
        """
        host = self._host
        mine = {
            domain.name: replace(
                domain,
                name=f"{host.name}/{domain.name}",
                host=host.name,
                role=host.role,
                # There every process is foreign: the recorder knows none of this run.
                quantities=tuple(one for one in domain.quantities if one.name not in _OF_PROCESSES),
            )
            for domain in found
            if domain.model is None
        }
        keys = enumerate(series_keys(found))
        self._series = {
            number: (mine[name].name, what)
            for number, (name, what) in keys
            if name in mine and what not in _OF_PROCESSES
        }
        self.domains = tuple(domain.name for domain in mine.values())
        return tuple(mine.values())

    def close(self) -> None:
        self._closing = True
        process = self._process
        if process is not None and process.stdin is not None and process.stdout is not None:
            with self._sending:
                close_pipe(process.stdin)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if hasattr(self, "_errors"):
            self._errors.close()

    def sample(self) -> Sequence[Sample]:
        if self._why_lost is None and time.monotonic_ns() - self._asked_ns >= _ASK_EVERY_NS:
            self._ask_clock()
        found = []
        while self._samples:
            found.append(self._samples.popleft())
        return found

    def dense(self, wanted: bool, /) -> None:
        self._send({"do": "dense", "wanted": wanted})

    def edge(self) -> None:
        self._send({"do": "edge"})

    def catch_up(self) -> None:
        self._number += 1
        number = self._number
        self._send({"do": "catch_up", "id": number})
        with self._heard:
            self._heard.wait_for(
                lambda: self._why_lost is not None or self._answers.get("caught_up", {}).get("id") == number,
                _CAUGHT_UP_S,
            )

    def gaps(self, *, open_until_ns: int | None = None) -> Sequence[Gap]:
        if open_until_ns is None:
            with self._heard:
                found, self._gaps = self._gaps, []
            return found
        why = self._why_lost
        if why is None and open_until_ns - self._spoke_ns > _SILENT_NS:
            why = f"host_lost: {self._host.name} says nothing any more"
        window = Window(min(self._read_ns, open_until_ns), open_until_ns)
        return [] if why is None else [Gap(window, why, name) for name in self.domains]

    def round_trips(self) -> Sequence[RoundTrip]:
        """The quickest of each second that is over."""
        with self._heard:
            now = self._trips[-1].there_ns // WINDOW_NS if self._trips else 0
            over = [one for one in self._trips if one.there_ns // WINDOW_NS < now or self._closing]
            self._trips = [one for one in self._trips if one not in over]
        return quickest(over)

    def _ask_clock(self) -> None:
        self._number += 1
        self._asked_ns = self._asked[self._number] = time.monotonic_ns()
        self._send({"do": "clock", "id": self._number})

    def _send(self, said: dict[str, Any]) -> None:
        process = self._process
        # One that has gone is noticed by who listens.
        with self._sending, contextlib.suppress(OSError, ValueError):
            if process is not None and process.stdin is not None and not process.stdin.closed:
                process.stdin.write(f"{json.dumps(said)}\n".encode())
                process.stdin.flush()

    def _expect(self, wanted: str, seconds: float) -> dict[str, Any]:
        def come() -> bool:
            return wanted in self._answers or "refused" in self._answers

        self._wait(come, seconds, f"say {wanted}")
        if wanted in self._answers:
            return self._answers[wanted]
        refused = self._answers["refused"]
        way_out = refused.get("hint")
        raise EnergyError(
            f"the recorder on {self._host.name} refuses: {refused.get('message')}",
            hint=None if way_out is None else f"on {self._host.name}: {way_out}",
        )

    def _wait(self, come: Callable[[], bool], seconds: float, what: str) -> None:
        with self._heard:
            self._heard.wait_for(lambda: come() or self._ended is not None, seconds)
        if come():
            return
        if self._ended is not None:
            said = self._ended.said or "it printed no reason"
            raise self._refusal(f"its command ended with exit code {self._ended.code}: {said}")
        raise self._refusal(f"it did not {what} within {seconds:.0f} s{self._last_banner()}")

    def _last_banner(self) -> str:
        return f"; it printed {self._banner[-1]!r:.80}" if self._banner else ""

    def _refusal(self, why: str) -> EnergyError:
        return EnergyError(
            f"the recorder on {self._host.name} can't be used: {why}",
            hint=f"{shlex.join(self._host.arguments)} has to start llem record there, without a question; "
            "try it by hand",
        )

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                received_ns = time.monotonic_ns()
                self._hear(line, received_ns)
        close_pipe(self._process.stdout)
        code = self._process.wait()
        said = ""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or list(self._banner)
            said = lines[-1][-_TAIL:] if lines else ""
        with self._heard:
            self._ended = _Ended(code, said)
            if not self._closing:
                self._why_lost = (
                    f"host_lost: the command of {self._host.name} ended with exit code {code}"
                    f"{f': {said}' if said else ''}"
                )
            self._heard.notify_all()

    def _hear(self, line: bytes, received_ns: int) -> None:
        """What is not an answer is a banner, or what a login script prints."""
        try:
            said = json.loads(line)
            kind = said["say"]
        except (ValueError, TypeError, KeyError):
            self._banner.append(line.decode(errors="replace").strip())
            return
        with self._heard:
            self._spoke_ns = received_ns
            try:
                self._take(kind, said, received_ns)
            except (ValueError, TypeError, KeyError) as error:
                self._why_lost = f"host_lost: {self._host.name} says what is not understood: {error}"
            self._heard.notify_all()

    def _take(self, kind: str, said: dict[str, Any], received_ns: int) -> None:
        if kind == "clock":
            if (sent_ns := self._asked.pop(said["id"], None)) is not None:
                there_ns = int(said["t_ns"]) + self._shift_ns
                self._trips.append(RoundTrip(self._host.name, sent_ns, there_ns, received_ns))
        elif kind == "samples":
            self._take_samples(said["rows"])
            for gap in gaps_from_json(said["gaps"]):
                start, end = (t_ns + self._shift_ns for t_ns in (gap.window.start_ns, gap.window.end_ns))
                name = gap.domain and f"{self._host.name}/{gap.domain}"
                names = self.domains if name is None else [name] if name in self.domains else []
                self._gaps += [Gap(Window(start, end), gap.reason, one) for one in names]
        else:
            self._answers[kind] = said

    def _take_samples(self, rows: Sequence[int]) -> None:
        for number, before_ns, after_ns, raw in zip(*(iter(rows),) * 4, strict=True):
            key = self._series.get(number)
            if key is not None:
                self._read_ns = max(self._read_ns, after_ns + self._shift_ns)
                self._samples.append(Sample(*key, before_ns + self._shift_ns, after_ns + self._shift_ns, raw))
