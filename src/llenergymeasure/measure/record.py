"""The recorder as a program of its own, beside code that llem does not run: how does it start, hear marks and
end?

It reads marks from its standard input and from a FIFO that other processes of the program may open, and ends
when it is asked to, when its input is closed, or when the process that started it is gone.

Long because starting, hearing and ending share one state.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.energy.recording.trace import STREAM_NAME, compact, domains_as_json, gaps_as_json
from llenergymeasure.exceptions import LLEMError, PreFlightError
from llenergymeasure.measure.environment import boot_id, environment
from llenergymeasure.measure.gpus import gpu_facts, used_gpus
from llenergymeasure.measure.lock import DomainLocks
from llenergymeasure.measure.marks import (
    FIFO_NAME,
    MARKS_VERSION,
    AskClock,
    Began,
    Begin,
    CatchUp,
    Dense,
    Edge,
    End,
    Ended,
    Mark,
    Over,
    Request,
    Silence,
    Stop,
    Stream,
    began_adapter,
    ended_adapter,
    is_blank,
    read_recording,
    said_adapter,
)
from llenergymeasure.measure.scratch import EVENTS_NAME, PREFIX
from llenergymeasure.records import (
    Domain,
    Gap,
    MeasurementWarning,
    MeterChoice,
    Overhead,
    RecordingKind,
    Start,
)
from llenergymeasure.results.folder import explained, unwritable

if TYPE_CHECKING:
    from pydantic import JsonValue, ValidationError

    from llenergymeasure.results.windows import WindowsResult

PART = ".part"
# How often it looks whether its owner is still there, and for the end of a silence.
_LOOK_S = 0.25
_LISTEN_S = 0.01
# A model of power is read at the edges of windows, but no more often than this.
_EDGES_APART_NS = 50_000_000
_GPUS_APART_NS = 5_000_000_000
# Windows of up to 10 s are read densely, and for 2 s after each edge: what these edges hide weighs most.
_CLOSE_WITHIN_NS, _CLOSE_AFTER_NS = 10_000_000_000, 2_000_000_000
# How often reads are written, and sent to another host: what a recorder that is killed loses.
_FLUSH_S = 0.2
# After the last window: a counter may be behind by 0.15 s and steps every 0.1 s.
_SETTLE_NS = 300_000_000
# A program that has stopped its Monitor as its last act is gone after that.
_LEAVES_S = 0.05
_CHUNK = 1 << 16
_MOST_CHILDREN = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """`owner` is the process whose tree is measured; `program` its command line. With `shared` devices may be
    read that another recorder reads. Nothing is kept without an `output_dir`.
    """

    owner: int
    program: tuple[str, ...] = ()
    output_dir: Path | None = None
    energy: MeterChoice = field(default_factory=MeterChoice)
    shared: bool = False


def read_settings(text: str) -> Settings:
    """As `Monitor` writes them."""
    given = json.loads(text)
    energy, output_dir = given["energy"], given["output_dir"]
    gpus = energy["gpus"]
    return Settings(
        owner=given["owner"],
        program=tuple(given["program"]),
        output_dir=None if output_dir is None else Path(output_dir),
        energy=MeterChoice(
            energy["meter"],
            gpus if isinstance(gpus, str) else tuple(gpus),
            energy["require_measured"],
            energy["boundary"],
        ),
        shared=given["shared"],
    )


def main(settings: Settings, *, commands: int, answers: int) -> int:
    """Record until the end of `commands`, and answer on `answers`, both file descriptors."""
    answering = threading.Lock()

    def answer(say: str, **values: JsonValue) -> None:
        line = (json.dumps({"say": say, **values}) + "\n").encode()
        # Whoever has gone needs no answer.
        with answering, contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(answers, line) :]

    answer("hello", version=MARKS_VERSION, pid=os.getpid(), t_ns=time.monotonic_ns())
    try:
        if not record(settings, commands, answer, is_unheard=partial(_is_unheard, answers)):
            os._exit(0)  # at once, whatever its threads are reading or importing
    except ValueError as error:
        from pydantic import ValidationError

        if not isinstance(error, ValidationError):
            raise
        answer("refused", error="ConfigError", message=_first(error), hint=None)
        return 2
    except LLEMError as error:
        answer("refused", error=type(error).__name__, message=error.message, hint=error.hint)
        return error.exit_code
    except OSError as error:
        message = f"the recording can't be written: {error.strerror}" + (
            f" ({error.filename})" if error.filename else ""
        )
        answer("refused", error="ResultError", message=message, hint="choose another folder, or make room")
        return 1
    return 0


def _is_unheard(answers: int, within_s: float) -> bool:
    """Whether nobody can read the answers any more, now or soon."""
    gone = select.poll()
    gone.register(answers, 0)
    return bool(gone.poll(within_s * 1e3))


def record(
    settings: Settings, commands: int, answer: Callable[..., None], *, is_unheard: Callable[[float], bool]
) -> bool:
    """Whether there is a result: where nothing is kept and nobody asks for it, computing it is spared."""
    start_ns = time.monotonic_ns()
    started = Start(datetime.now(UTC).isoformat(timespec="seconds"), start_ns, boot_id())
    # A child that marks windows is looked for at once: it may be gone before the next look for new processes.
    children: deque[int] = deque(maxlen=_MOST_CHILDREN)
    selection = choose_meters(settings.energy, processes=lambda: [settings.owner, *children])
    identifier = recording_id(settings.program, "windows", started)
    warnings: list[MeasurementWarning] = []
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(DomainLocks(owner=f"the recorder of process {settings.owner}"))
        warnings += lock(locks, selection.domains, shared=settings.shared)
        folder = stack.enter_context(recording_folder(settings.output_dir, identifier))
        boundary = settings.energy.boundary
        recorder = Recorder(
            selection.meters, clock=time, directory=folder, boundary=boundary, flush_s=_FLUSH_S
        )
        recorder.start(file_first=False)
        heard = _Heard(recorder, settings.owner, answer, folder, children)
        stack.callback(heard.close)
        least_s, lag_s = recorder.quiet_s
        ready_ns = time.monotonic_ns()
        answer(
            "ready",
            t_ns=ready_ns,
            experiment_id=identifier,
            folder=str(folder),
            fifo=str(folder / FIFO_NAME),
            quiet_s=[least_s, lag_s],
            domains=[domain.name for domain in recorder.domains],
        )
        began = Began(
            identifier,
            "windows",
            settings.program,
            settings.energy,
            started,
            environment(gpu_facts()),
            ready_ns,
        )
        heard.write([began_adapter().dump_json(began)])
        asked = heard.listen(commands)
        stop_ns = heard.settle() if asked else time.monotonic_ns()
        recorder.look()
        if settings.output_dir is None and is_unheard(_LEAVES_S):
            return False
        recorder.stop()
        notes = tuple(f"meter {name} was not used: {why}" for name, why in selection.refused)
        ended = Ended(
            stop_ns,
            Overhead(recorder.cpu_s, recorder.samples, (ready_ns - start_ns) / 1e9),
            tuple(heard.gpus),
            tuple(warnings),
            notes + selection.notes,
        )
        heard.write([ended_adapter().dump_json(ended)])
        result, where = finish(folder, keep=settings.output_dir is not None)
        answer("done", folder=None if where is None else str(where), result=result.as_json())
    return True


def recording_id(program: Sequence[str], kind: RecordingKind, started: Start) -> str:
    """When, what, and enough of chance that two recordings never share a folder."""
    stamp = re.sub(r"[^0-9T]", "", started.utc.partition("+")[0])
    scripts = [Path(one).name for one in program if one.endswith((".py", ".sh")) and "\n" not in one]
    named = [*scripts, *(Path(one).name for one in program[:1]), "program"]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", named[0]).strip("-.")[:40]
    return f"{stamp}-{name or 'program'}-{kind}-{os.urandom(3).hex()}"


def lock(locks: DomainLocks, domains: Sequence[Domain], *, shared: bool) -> list[MeasurementWarning]:
    """Keep others off what is measured; where it is `shared`, say so instead of refusing."""
    try:
        locks.take(domain.name for domain in domains if domain.model is None)
    except PreFlightError as error:
        if not shared:
            raise PreFlightError(
                error.message, hint="wait until it has ended, or share them: shared=True"
            ) from (error)
        return [MeasurementWarning.of("device_shared", error.message)]
    return []


def finish(folder: Path, *, keep: bool) -> tuple[WindowsResult, Path | None]:
    """The result of a recording that has ended, and where it is kept: its folder loses `.part`.

    A recorder that was killed has left its trace as a stream, which is compacted first.
    """
    from llenergymeasure.analysis.windows import windows_result  # it imports numpy, which takes its time
    from llenergymeasure.results.windows import write

    if is_blank(folder / STREAM_NAME):
        (folder / STREAM_NAME).unlink(missing_ok=True)
    else:
        compact(folder)
    (folder / FIFO_NAME).unlink(missing_ok=True)
    result = windows_result(read_recording(folder))
    if not keep:
        return result, None
    write(result, folder)
    final = folder.with_name(folder.name.removesuffix(PART))
    folder.rename(final)
    return result, final


@contextlib.contextmanager
def recording_folder(output_dir: Path | None, identifier: str) -> Iterator[Path]:
    """`<identifier>.part` in `output_dir`, which `finish` renames; a temporary one where nothing is kept."""
    if output_dir is None:
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return
    folder = output_dir.absolute() / f"{identifier}{PART}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritable(
            "the recording", folder, error, hint="choose another folder, or make room"
        ) from error
    yield folder


@dataclass(slots=True)
class _Heard:
    """Listens to marks, keeps them, and does what they ask of the recorder."""

    recorder: Recorder
    owner: int
    answer: Callable[..., None]
    folder: Path
    children: deque[int]
    gpus: dict[str, None] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)
    _silent: set[str] = field(default_factory=set)
    _blocks: set[str] = field(default_factory=set)
    _open: dict[str, int] = field(default_factory=dict)
    _mark_ns: int = -_CLOSE_AFTER_NS
    _dense: bool = False
    _rest: dict[int, bytes] = field(default_factory=dict)
    _edge_ns: int = 0
    _end_ns: int = 0
    _gpus_ns: int = 0
    _dense_elsewhere: bool = False
    _events: IO[bytes] = field(init=False)
    _fifo: int = field(init=False)
    _fifo_kept: int = field(init=False)

    def __post_init__(self) -> None:
        os.mkfifo(self.folder / FIFO_NAME, 0o600)
        self._fifo = os.open(self.folder / FIFO_NAME, os.O_RDONLY | os.O_NONBLOCK)
        # While somebody has it open for writing it never ends.
        self._fifo_kept = os.open(self.folder / FIFO_NAME, os.O_WRONLY | os.O_NONBLOCK)
        self._events = (self.folder / EVENTS_NAME).open("ab", buffering=0)

    def close(self) -> None:
        os.close(self._fifo)
        os.close(self._fifo_kept)
        self._events.close()

    def write(self, lines: Sequence[bytes]) -> None:
        """All lines in one call, so that a kill leaves whole ones but for the last."""
        t_ns = time.monotonic_ns()
        head = b'{"t_ns": %d, "from": "owner", "message": ' % t_ns
        with explained("the recording", self.folder / EVENTS_NAME):
            self._events.write(b"".join(head + line + b"}\n" for line in lines))

    def listen(self, commands: int) -> bool:
        """Until `stop` (True), or the end of the input or of the owner."""
        parent = os.getppid()
        modelled = any(domain.model is not None for domain in self.recorder.domains)
        # epoll refuses files, which commands may come from.
        with selectors.SelectSelector() as selector:
            for source in (commands, self._fifo):
                os.set_blocking(source, False)
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = selector.select(_LISTEN_S if self._waiting else _LOOK_S)
                marks: list[Mark] = []
                for key, _ in ready:
                    found, ended = self._read(key.fd)
                    marks += found
                    if key.fd == self._fifo:
                        self._meet(found)
                    if ended and key.fd == commands:
                        self._heed(marks)
                        return False
                self._heed(marks)
                self._answer_silences()
                if modelled and marks and not self._waiting:
                    self._look_at_edge()
                self._look_for_gpus(bool(marks))
                if any(isinstance(one, Stop) for one in marks):
                    self._heed(self._read(self._fifo)[0])
                    self._look_for_gpus(marked=True, last=True)
                    return True
                if os.getppid() != parent:
                    return False

    def settle(self) -> int:
        """Record until the last window's joules are counted; returns the time of the end."""
        stop_ns = time.monotonic_ns()
        measured = any(domain.model is None for domain in self.recorder.domains)
        if measured and self._end_ns and stop_ns - self._end_ns < _SETTLE_NS:
            time.sleep((_SETTLE_NS - (stop_ns - self._end_ns)) / 1e9)
        return stop_ns

    def _read(self, source: int) -> tuple[list[Mark], bool]:
        """The marks that have come, and whether the source has ended."""
        data, ended = self._rest.get(source, b""), False
        while True:
            try:
                chunk = os.read(source, _CHUNK)
            except BlockingIOError:
                break
            if not chunk:
                # The last line of a file may lack its end.
                data, ended = data + b"\n", True
                break
            data += chunk
            if len(chunk) < _CHUNK:
                break
        *lines, self._rest[source] = data.split(b"\n")
        from pydantic import ValidationError

        marks, kept = [], []
        for line in filter(None, lines):
            try:
                said = said_adapter().validate_json(line)
                if isinstance(said, Stream | AskClock | Dense | Edge | CatchUp):
                    self._serve(said)
                else:
                    marks.append(said)
                    kept.append(line)
            except ValidationError as error:
                self.answer("unknown", line=line.decode(errors="replace")[:200], why=_first(error))
        if kept:
            self.write(kept)
        return marks, ended

    def _serve(self, request: Request) -> None:
        """What another host asks."""
        match request:
            case AskClock():
                self.answer("clock", id=request.id, t_ns=time.monotonic_ns())
            case Stream():
                self.recorder.flush()
                self.answer("streaming", domains=domains_as_json(self.recorder.domains))
                self.recorder.listener = self._send
            case Dense():
                self._dense_elsewhere = request.wanted
                self._look_closely()
            case Edge():
                self.recorder.edge()
            case CatchUp():
                self.recorder.look()
                self.recorder.flush()
                self.answer("caught_up", id=request.id)

    def _send(self, rows: Sequence[int], gaps: Sequence[Gap]) -> None:
        self.answer("samples", rows=list(rows), gaps=gaps_as_json(gaps))

    def _heed(self, marks: Sequence[Mark]) -> None:
        for mark in marks:
            match mark:
                case Silence():
                    self._waiting[mark.id] = mark.t_ns
                    self._silent.add(mark.id)
                    self._blocks.add(mark.id)
                case Begin():
                    self._spoken(mark.id)
                    if mark.id not in self._blocks:
                        self._open[mark.id] = self._mark_ns = mark.t_ns
                case Over():
                    self._spoken(mark.id)
                    self._blocks.discard(mark.id)
                case End():
                    self._end_ns = max(self._end_ns, mark.t_ns)
                    if self._open.pop(mark.id, None) is not None:
                        self._mark_ns = mark.t_ns
                case Stop():
                    self.gpus |= dict.fromkeys(mark.gpus)
        self._look_closely()

    def _meet(self, marks: Sequence[Mark]) -> None:
        """The children that speak: a Monitor's ids begin with the process that made them."""
        for mark in marks:
            pid, dot, _ = mark.id.partition(".") if isinstance(mark, Begin | Silence) else ("", "", "")
            if dot and pid.isdecimal() and int(pid) not in self.children and self._descends(int(pid)):
                self.children.append(int(pid))

    def _descends(self, pid: int) -> bool:
        try:
            return any(one.pid == self.owner for one in psutil.Process(pid).parents())
        except psutil.Error:
            return False

    def _spoken(self, identifier: str) -> None:
        """Its silence is over."""
        self._waiting.pop(identifier, None)
        self._silent.discard(identifier)

    def _look_closely(self) -> None:
        """In silences, and where a window without them may end soon or another one follows: what its edges
        leave open is the time between the events around them. In a block, and far from all edges, from afar.
        """
        now_ns = time.monotonic_ns()
        edge_near = now_ns - self._mark_ns < _CLOSE_AFTER_NS or any(
            now_ns - since_ns < _CLOSE_WITHIN_NS for since_ns in self._open.values()
        )
        wanted = bool(self._silent) or edge_near or self._dense_elsewhere
        if wanted != self._dense:
            self._dense = wanted
            self.recorder.dense(wanted)

    def _answer_silences(self) -> None:
        least_s, lag_s = self.recorder.quiet_s
        for identifier, since_ns in list(self._waiting.items()):
            if not least_s:
                self.recorder.look()
            elif not self.recorder.quiet_enough(since_ns + round(lag_s * 1e9)):
                continue
            del self._waiting[identifier]
            self.answer("quiet", id=identifier)

    def _look_at_edge(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._edge_ns >= _EDGES_APART_NS:
            self._edge_ns = now_ns
            self.recorder.look()

    def _look_for_gpus(self, marked: bool, *, last: bool = False) -> None:
        """Which GPUs the owner's processes are on changes rarely, and asking takes the driver's time."""
        if not any(domain.kind in {"gpu", "module"} for domain in self.recorder.domains):
            return
        t_ns = time.monotonic_ns()
        if last or (marked and t_ns - self._gpus_ns >= _GPUS_APART_NS):
            self._gpus_ns = t_ns
            self.gpus |= dict.fromkeys(used_gpus([self.owner]))


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else found["msg"]


def program() -> int:
    """With the settings of a Monitor as its one argument."""
    # What a driver prints must not pass for an answer.
    protocol = os.dup(1)
    os.dup2(2, 1)
    return main(read_settings(sys.argv[1]), commands=0, answers=protocol)
