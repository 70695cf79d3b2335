"""How is a command of any kind measured: a fresh process each run, with silences around it?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.energy.recording.trace import PARQUET_NAME
from llenergymeasure.exceptions import ConfigError, ExperimentError, LLEMError
from llenergymeasure.measure import launcher
from llenergymeasure.measure.environment import boot_id, environment
from llenergymeasure.measure.gpus import gpu_facts, used_gpus
from llenergymeasure.measure.lock import DomainLocks
from llenergymeasure.measure.marks import (
    Began,
    Begin,
    End,
    Ended,
    Over,
    Silence,
    began_adapter,
    ended_adapter,
    mark_adapter,
)
from llenergymeasure.measure.record import finish, lock, recording_folder, recording_id
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.records import MeasurementWarning, MeterChoice, Overhead, Progress, Start
from llenergymeasure.records.figures import about
from llenergymeasure.results.windows import WindowsResult

_LISTEN_S = 0.01
_GPUS_APART_S = 1.0
_END_S = 5.0
_MOST_TOKENS = 10**15
_TAIL_LINES = 5
# Longer than this around a run, and the silences are said.
_LONG_S = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """`commands` are measured in turns whose order is drawn; `tokens` finds a number in what they print.

    `prepare` is run by a shell before each run, outside of all that is measured.
    """

    commands: tuple[tuple[str, ...], ...]
    runs: int = 10
    warmup: int = 0
    prepare: str | None = None
    tokens: re.Pattern[str] | None = None
    ignore_failure: bool = False
    shared: bool = False
    energy: MeterChoice = field(default_factory=MeterChoice)
    output_dir: Path | None = None


def measure_commands(
    wanted: Wanted, tell: Progress, saved: Callable[[Path], None]
) -> tuple[WindowsResult, ...]:
    """The result of each command; `saved` hears of its folder where it is kept.

    ConfigError where a command does not exist, ExperimentError where one ends with another code than 0 or the
    preparation fails. Where that or a Ctrl-C comes after runs of every command, these are kept in the output
    directory before it is raised.
    """
    for command in wanted.commands:
        if shutil.which(command[0]) is None:
            raise ConfigError(
                f"there is no command {command[0]!r}",
                hint="name a program on PATH or a file that may be executed; for a shell's own: -- sh -c '…'",
            )
    start_ns = time.monotonic_ns()
    started = Start(datetime.now(UTC).isoformat(timespec="seconds"), start_ns, boot_id())
    running: list[int] = []
    selection = choose_meters(wanted.energy, processes=lambda: tuple(running))
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(DomainLocks(owner="llem exec"))
        warnings = lock(locks, selection.domains, shared=wanted.shared)
        identifiers = [recording_id(command, "command", started) for command in wanted.commands]
        folders = [stack.enter_context(_folder(wanted.output_dir, one)) for one in identifiers]
        here = environment(gpu_facts())
        boundary = wanted.energy.boundary
        with Recorder(selection.meters, clock=time, directory=folders[0], boundary=boundary) as recorder:
            ready_ns = time.monotonic_ns()
            bench = stack.enter_context(_Bench(recorder, running))
            runs = [_Runs(command, folder) for command, folder in zip(wanted.commands, folders, strict=True)]
            ended_by = None
            try:
                _run_all(bench, runs, wanted, tell)
            except (KeyboardInterrupt, SystemExit, LLEMError) as error:
                if wanted.output_dir is None or not all(one.marks for one in runs):
                    raise
                ended_by = error
                bench.forget_last(runs)
                done = min(sum(isinstance(mark, End) for mark in one.marks) for one in runs)
                said = f"it was ended after {done} of {wanted.runs} runs"
                warnings.append(MeasurementWarning.of("interrupted", said))
            end_ns = time.monotonic_ns()
            recorder.look()
        tell("computing")
        for folder in folders[1:]:
            shutil.copyfile(folders[0] / PARQUET_NAME, folder / PARQUET_NAME)
        overhead = Overhead(recorder.cpu_s, recorder.samples, (ready_ns - start_ns) / 1e9)
        notes = tuple(f"meter {name} was not used: {why}" for name, why in selection.refused)
        ended = Ended(end_ns, overhead, tuple(bench.gpus), tuple(warnings), notes + selection.notes)
        for identifier, one in zip(identifiers, runs, strict=True):
            began = Began(identifier, "command", one.command, wanted.energy, started, here, ready_ns)
            _write_events(one, began, ended)
        results = [finish(folder, keep=wanted.output_dir is not None) for folder in folders]
    for _, kept in results:
        if kept is not None:
            saved(kept)
    if ended_by is not None:
        raise ended_by
    return tuple(result for result, _ in results)


def _run_all(bench: _Bench, runs: Sequence[_Runs], wanted: Wanted, tell: Progress) -> None:
    """In blocks of one run of each command, in a new order each time: what drifts meets them alike."""
    waits_s = 2 * bench.silence_s
    waits = f", which waits {about(waits_s)} more for the meter" if waits_s >= _LONG_S else ""
    for number in range(wanted.warmup + wanted.runs):
        for one in random.sample(runs, len(runs)):
            step = f"warm-up {number + 1} of {wanted.warmup}"
            if number >= wanted.warmup:
                step = f"run {number - wanted.warmup + 1} of {wanted.runs}{waits}"
            tell(f"{step}: {shlex.join(one.command)[:60]}")
            _prepare(wanted.prepare)
            bench.run(one, wanted, counts=number >= wanted.warmup)


@contextlib.contextmanager
def _folder(output_dir: Path | None, identifier: str) -> Iterator[Path]:
    """As `recording_folder`; where the runs come to no good end nothing is left of them."""
    with recording_folder(output_dir, identifier) as folder:
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@dataclass(slots=True)
class _Runs:
    command: tuple[str, ...]
    folder: Path
    marks: list[Silence | Begin | End | Over] = field(default_factory=list)

    @property
    def name(self) -> str:
        return shlex.join(self.command)[:200]


class _Bench:
    """Runs commands between silences, each started by a launcher that this starts once."""

    def __init__(self, recorder: Recorder, running: list[int]) -> None:
        self._recorder = recorder
        self._running = running
        self._numbers = 0
        self.gpus: dict[str, None] = {}

    def __enter__(self) -> Self:
        self._launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(launcher.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing that it started outlives it, whatever ended it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(number) or self._is_gone(_END_S):
                break
        for stream in (self._launcher.stdin, self._launcher.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _signal(self, number: int) -> bool:
        """To the launcher and all that it started; False where nothing of them is left."""
        try:
            os.killpg(self._launcher.pid, number)
        except ProcessLookupError:
            return False
        # macOS says so of a group that has only zombies left
        except PermissionError:
            return False
        return True

    def _is_gone(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self._launcher.poll()
            if not self._signal(0):
                return True
            time.sleep(_LISTEN_S)
        return False

    def run(self, one: _Runs, wanted: Wanted, *, counts: bool) -> None:
        """One run; ExperimentError where it fails and that is not ignored."""
        self._numbers += 1
        identifier, output = str(self._numbers), one.folder / f"output-{self._numbers}.log"
        before_ns = self._silence() if counts else 0
        begun = self._ask(json.dumps({"argv": one.command, "output": str(output)}))
        if "errno" in begun:
            raise ConfigError(f"{one.command[0]} can't be started: {os.strerror(begun['errno'])}")
        self._running.append(begun["pid"])
        with self._looking_for_gpus(begun["pid"]):
            end_ns = self._answer()["t_ns"]
        if counts and self._recorder.quiet_s[0]:
            self._silence()
        else:
            self._recorder.look()
        over_ns = time.monotonic_ns()
        used = self._ask("")
        self._running.clear()
        text = output.read_text(errors="replace")
        if used["exit_code"] and not wanted.ignore_failure:
            tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
            raise ExperimentError(
                f"{one.name} {_ended(used['exit_code'])}" + (f":\n{tail}" if tail else ""),
                hint="--ignore-failure measures it all the same",
            )
        if not counts:
            output.unlink()
            return
        is_its_own = used["peak_bytes"] > used["own_bytes"]
        one.marks += [
            Silence(identifier, before_ns),
            Begin(identifier, one.name, begun["t_ns"]),
            End(
                identifier,
                end_ns,
                output=_tokens(wanted.tokens, text),
                # The kernel's account of a peak below the launcher's own is the launcher's.
                peak_bytes=used["peak_bytes"] if is_its_own else used["seen_bytes"] or None,
                peak_below_bytes=None if is_its_own else used["own_bytes"],
                exit_code=used["exit_code"],
            ),
            Over(identifier, max(over_ns, end_ns)),
        ]

    def forget_last(self, runs: Sequence[_Runs]) -> None:
        """What a run that did not end has printed."""
        for one in runs:
            if one.marks[-1].id != str(self._numbers):
                (one.folder / f"output-{self._numbers}.log").unlink(missing_ok=True)

    @property
    def silence_s(self) -> float:
        """How long a silence before or after a run is, at the least."""
        least_s, lag_s = self._recorder.quiet_s
        return least_s + lag_s if least_s else 0.0

    def _silence(self) -> int:
        """Wait until every meter has seen enough of the machine without a command; returns when it began."""
        least_s, lag_s = self._recorder.quiet_s
        start_ns = time.monotonic_ns()
        if not least_s:
            self._recorder.look()
            return time.monotonic_ns()
        self._recorder.dense(True)
        while not self._recorder.quiet_enough(start_ns + round(lag_s * 1e9)):
            time.sleep(_LISTEN_S)
        self._recorder.dense(False)
        return start_ns

    @contextlib.contextmanager
    def _looking_for_gpus(self, pid: int) -> Iterator[None]:
        """Note which GPUs the command's processes are on while it runs."""
        if not any(domain.kind in {"gpu", "module"} for domain in self._recorder.domains):
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(_GPUS_APART_S):
                self.gpus |= dict.fromkeys(used_gpus([pid]))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _ask(self, line: str) -> Mapping[str, int]:
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(line.encode() + b"\n")
        self._launcher.stdin.flush()
        return self._answer()

    def _answer(self) -> Mapping[str, int]:
        assert self._launcher.stdout is not None
        line = self._launcher.stdout.readline()
        if not line:
            raise ExperimentError("the process that starts the commands has ended", hint="see dmesg for why")
        found: Mapping[str, int] = json.loads(line)
        return found


def _prepare(command: str | None) -> None:
    if command is None:
        return
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{command}\n{done.stderr[-500:]}".strip()
        raise ExperimentError(
            f"the preparation {_ended(done.returncode)}: {said}",
            hint="mend what --prepare runs",
        )


def _tokens(pattern: re.Pattern[str] | None, text: str) -> int | None:
    """The last number that the pattern finds: its first group, or all of it. None where that is no count."""
    if pattern is None:
        return None
    found = [match.group(1 if pattern.groups else 0) for match in pattern.finditer(text)]
    try:
        number = float((found[-1] or "").replace(",", "")) if found else -1.0
    except ValueError:
        return None
    return int(number) if 0 <= number <= _MOST_TOKENS else None


def _write_events(one: _Runs, began: Began, ended: Ended) -> None:
    messages = [
        began_adapter().dump_json(began),
        *(mark_adapter().dump_json(mark) for mark in one.marks),
        ended_adapter().dump_json(ended),
    ]
    head = b'{"t_ns": %d, "from": "parent", "message": ' % ended.t_ns
    (one.folder / EVENTS_NAME).write_bytes(b"".join(head + message + b"}\n" for message in messages))


def _ended(code: int) -> str:
    """How a process ended; of a signal without a name the number."""
    try:
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    except ValueError:
        return f"was ended by signal {-code}"
