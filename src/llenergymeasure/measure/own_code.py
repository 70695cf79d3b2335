"""How does somebody's own script mark windows in a recording of what it costs?

Nothing here imports what is heavy: the recorder is a process of its own, and a mark is a line in a pipe.

Long because windows, blocks, threads and children mark in the same recording.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from llenergymeasure import exceptions
from llenergymeasure.exceptions import ConfigError, LLEMError, ResultError

if TYPE_CHECKING:
    from llenergymeasure.records import BoundaryName
    from llenergymeasure.results.windows import WindowsResult

F = TypeVar("F", bound=Callable[..., Any])

# Not with -m, for which Python would compile the module each time.
_RECORDER = "import sys; from llenergymeasure.measure.record import program; sys.exit(program())"
_READY_S = 60.0
_QUIET_S = 10.0
_DONE_S = 120.0
_END_S = 10.0
_LONGEST_NAME = 200
_MOST_WAITING = 1_000_000
# What a child, which hears no answers, adds to the least length of a silence.
_UNHEARD_S = 0.3
# How long a child's mark waits for room in the pipe.
_TAKES_S = 2.0
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20


class Monitor:
    """Measures windows of this program: joules, seconds and tokens, each with its interval.

    A context manager. A recorder runs beside the program for as long, which reads `meter` (auto, nvml, amd,
    rapl, apple, estimate or a plug-in's name). `gpus` are those that count: auto for those that this
    program's processes use, all, or a list of UUIDs or indices. `boundary` is what the joules take in: gpu,
    gpu+cpu+dram, host or wall; by auto the parts that are read, else the host, else the wall. Devices that
    another recorder reads are refused unless `shared`. With `output_dir` the result and its trace are kept
    there; `result` is there after the end.

    Windows wait for the GPU before both ends where torch is loaded and has used one; `synchronize=False`
    leaves that out. A child made by fork or spawn may mark windows too; the process that made the Monitor
    owns the recorder, which ends with it, however that comes.

    Raises EnergyError, PreFlightError or ConfigError on entry where the recorder can't start.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        meter: str = "auto",
        gpus: Literal["auto", "all"] | int | Sequence[str | int] = "auto",
        require_measured: bool = False,
        boundary: BoundaryName = "auto",
        shared: bool = False,
        synchronize: bool = True,
    ) -> None:
        self._pid = 0
        chosen = (
            gpus
            if gpus in ("auto", "all")
            else [str(one) for one in ([gpus] if isinstance(gpus, str | int) else gpus)]
        )
        self._settings = {
            "output_dir": None if output_dir is None else os.fspath(output_dir),
            "energy": {
                "meter": meter,
                "gpus": chosen,
                "require_measured": require_measured,
                "boundary": boundary,
            },
            "shared": shared,
        }
        self._synchronize = synchronize
        self._state: Literal["new", "running", "stopped"] = "new"
        self._numbers = itertools.count()
        self._names: dict[str, str] = {}
        self._marks = self._answers = -1
        self._adopting: dict[int, threading.Lock] = {}
        self._unsent: deque[bytes] = deque()
        self._draining = threading.Lock()
        self._done: dict[str, Any] = {}
        self._result: WindowsResult | None = None
        self._failure: ResultError | None = None

    # Start and end

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the recorder; returns once it reads."""
        if self._state != "new":
            raise ConfigError("a Monitor can be started once", hint="make another one")
        self._pid, self._owner = os.getpid(), True
        self._asking = threading.Lock()
        self._lost = False
        self._heard = b""
        settings = self._settings | {"owner": self._pid, "program": _program()}
        commands, self._marks = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RECORDER, json.dumps(settings)],
                stdin=commands,
                stdout=answers,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(commands)
            os.close(answers)
        _enlarge(self._marks)
        os.set_blocking(self._marks, False)
        try:
            self._answer("hello", _READY_S)
            self._ready = self._answer("ready", _READY_S)
        except BaseException:
            self._end_recorder()
            raise
        self._fifo = str(self._ready["fifo"])
        least_s, lag_s = self._ready["quiet_s"]
        self._silent_s = least_s + lag_s
        self._state = "running"

    def stop(self) -> None:
        """End the recording. With an output directory, returns once the result is there.

        If there is none, such as on a full disk, stderr says why; `result` then raises that error.
        """
        if self._state != "running" or not self._mine():
            return
        self._state = "stopped"
        self._send(json.dumps({"do": "stop", "gpus": _used_gpus()}).encode() + b"\n")
        self._drain(wait_s=_END_S)
        if self._settings["output_dir"] is not None:
            try:
                self._finish()
            except ResultError as error:
                # A recorder that is gone has been told of.
                if self._failure is None:
                    self._failure = error
                    print(f"llem: there is no result: {error}", file=sys.stderr)
        else:
            # It ends by itself; a thread waits for it, so that it does not stay behind as a zombie.
            threading.Thread(target=self._process.wait, daemon=True).start()

    @property
    def result(self) -> WindowsResult:
        """What the windows cost; after the end. Loads what computing with results takes."""
        if self._state != "stopped":
            raise ConfigError(
                "there is no result yet: the Monitor has not ended", hint="ask after the with block"
            )
        if not self._mine():
            raise ConfigError("the result belongs to the process that made the Monitor")
        self._finish()
        if self._result is None:
            from llenergymeasure.results.windows import WindowsResult  # pydantic's models take a while

            self._result = WindowsResult.model_validate_json(
                json.dumps(self._done["result"]), strict=True, context={"stored": True}
            )
        return self._result

    def _finish(self) -> None:
        """Wait for the result, as the recorder has it or as its files do."""
        if self._done or self._result is not None:
            return
        if self._failure is not None:
            raise self._failure
        try:
            self._done = self._answer("done", _DONE_S)
        except _Gone:
            try:
                self._result = self._rescued()
            except ResultError as error:
                self._failure = error
                raise
        finally:
            self._end_recorder()

    def _close_pipes(self) -> None:
        for pipe in (self._marks, self._answers):
            if pipe >= 0:
                os.close(pipe)
        self._marks = self._answers = -1

    def __del__(self) -> None:
        # A recorder whose result nobody has asked for ends with its pipe.
        if self._pid == os.getpid():
            self._close_pipes()

    def _end_recorder(self) -> None:
        """It ends once its pipe is closed; one that hangs is killed."""
        self._close_pipes()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _rescued(self) -> WindowsResult:
        """From what a recorder that was killed has left."""
        from pathlib import Path  # both take longer to import than all of this module

        from llenergymeasure.measure.record import finish

        folder = Path(str(self._ready["folder"]))
        keep = self._settings["output_dir"] is not None
        try:
            result, _ = finish(folder, keep=keep)
        finally:
            if not keep:
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
        return result

    # Windows

    def window(self, name: str, *, synchronize: bool | None = None) -> Window:
        """A window of that name, which may be entered again and again, inside others, and in any thread, task
        or child; also `async with`, and a decorator. It has no silences: its interval bounds what may hide
        beside its edges, so that it should be long, or of a name with many.
        """
        return Window(self, name, silent=False, synchronize=synchronize)

    def block(self, name: str) -> Window:
        """The same between two silences, for which it waits (about a second each with a GPU, not at all with
        a model of power): the most exact. Nothing else may work on the device meanwhile.
        """
        return Window(self, name, silent=True, synchronize=None)

    # What Window needs

    def _open(self, window: Window) -> str:
        if self._state != "running":
            ended = "has ended" if self._state == "stopped" else "is not running"
            raise ConfigError(
                f"window {window.name!r}: the Monitor {ended}", hint="use it within: with Monitor() as m"
            )
        if not self._mine():
            self._adopt()
        name = self._names.get(window.name)
        if name is None:
            name = self._names[window.name] = _checked(window.name)
        identifier = f"{self._pid}.{next(self._numbers)}"
        if window.silent:
            self._settle(thorough=True)
            self._silence(identifier, time.monotonic_ns())
        elif window.synchronizes:
            self._settle()
        t_ns = time.monotonic_ns()
        self._send(
            b'{"do":"begin","id":"%b","name":%b,"t_ns":%d}\n' % (identifier.encode(), name.encode(), t_ns)
        )
        return identifier

    def _close(self, window: Window, identifier: str, error: str | None) -> None:
        if window.silent:
            self._settle(thorough=True)
        elif window.synchronizes:
            self._settle()
        t_ns = time.monotonic_ns()
        facts = b""
        if window.prompt is not None:
            facts += b',"prompt":%d' % window.prompt
        if window.output is not None:
            facts += b',"output":%d' % window.output
        if error is not None:
            facts += b',"error":' + json.dumps(error[:_LONGEST_NAME]).encode()
        self._send(b'{"do":"end","id":"%b","t_ns":%d%b}\n' % (identifier.encode(), t_ns, facts))
        if window.silent:
            self._silence(identifier, t_ns)
            over = b'{"do":"over","id":"%b","t_ns":%d}\n' % (identifier.encode(), time.monotonic_ns())
            self._send(over)

    def _settle(self, *, thorough: bool = False) -> None:
        """Wait for the GPU, where this process has used one."""
        torch = sys.modules.get("torch") if self._synchronize else None
        cuda = getattr(torch, "cuda", None)
        if cuda is None or not cuda.is_initialized():
            return
        if not thorough:
            cuda.synchronize()
            return
        for device in range(cuda.device_count()):
            # Asking does not make a context on a device that has none, as waiting for it would.
            if device == cuda.current_device() or cuda.memory_reserved(device):
                cuda.synchronize(device)

    def _silence(self, identifier: str, t_ns: int) -> None:
        """Wait until the recorder has seen enough of the quiet program."""
        line = b'{"do":"silence","id":"%b","t_ns":%d}\n' % (identifier.encode(), t_ns)
        if not self._mine():
            self._send(line)
            time.sleep(self._silent_s + _UNHEARD_S if self._silent_s else 0.0)
            return
        with self._asking:
            self._send(line)
            if self._lost:
                return
            try:
                while self._answer("quiet", _QUIET_S)["id"] != identifier:
                    pass
            except LLEMError:
                self._tell_lost()

    def _send(self, line: bytes) -> None:
        """Hand a mark to the recorder; one that does not read for a while gets it later, in order."""
        if self._unsent:
            self._unsent.append(line)
            self._drain()
            return
        try:
            os.write(self._marks, line)
        except BlockingIOError:
            if len(self._unsent) < _MOST_WAITING:
                self._unsent.append(line)
            # Nothing of a child says when it ends, and what it still holds then is lost.
            if not self._owner:
                self._drain(wait_s=_TAKES_S)
        except OSError:
            self._tell_lost()

    def _drain(self, *, wait_s: float = 0.0) -> None:
        """Send what waits, in order and by one thread at a time, until nothing is taken for `wait_s`."""
        if not self._draining.acquire(blocking=wait_s > 0):
            return
        try:
            deadline = time.monotonic() + wait_s
            while self._unsent:
                try:
                    # Whole or not at all: a line is shorter than what a pipe takes in one piece.
                    os.write(self._marks, self._unsent[0])
                    self._unsent.popleft()
                    deadline = time.monotonic() + wait_s
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(0.001)
                except OSError:
                    self._unsent.clear()
                    self._tell_lost()
        finally:
            self._draining.release()

    def _tell_lost(self) -> None:
        """Once: the program goes on, and what was recorded until now is kept."""
        if not self._lost:
            self._lost = True
            print(
                "llem: the recorder has ended; windows from here on are not measured",
                file=sys.stderr,
            )

    def _answer(self, say: str, within_s: float) -> dict[str, Any]:
        """The next answer of that kind. LLEMError where the recorder refuses, _Gone where it has ended."""
        deadline = time.monotonic() + within_s
        while True:
            line, newline, rest = self._heard.partition(b"\n")
            if newline:
                self._heard = rest
                found: dict[str, Any] = json.loads(line)
                if found["say"] == "refused":
                    kind = getattr(exceptions, str(found["error"]), LLEMError)
                    raise kind(found["message"], hint=found["hint"])
                if found["say"] == say:
                    return found
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._answers], [], [], left_s)[0]:
                raise ResultError(f"the recorder did not answer within {within_s:.0f} s")
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise _Gone("the recorder has ended")
            self._heard += chunk

    # Children

    def _mine(self) -> bool:
        return self._owner and os.getpid() == self._pid

    def _adopt(self) -> None:
        """In a child: marks go through the recorder's FIFO, and nothing else of the parent's is touched."""
        # A lock of this process: a thread that is not in the child may have held one when it was forked.
        with self._adopting.setdefault(os.getpid(), threading.Lock()):
            if os.getpid() == self._pid:
                return
            self._close_pipes()
            self._owner = False
            self._unsent, self._draining = deque(), threading.Lock()
            self._numbers = itertools.count()
            self._lost = False
            try:
                self._marks = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
                _enlarge(self._marks)
            except OSError:
                self._marks = -1
                self._tell_lost()
            # Last: the other threads mark once it is set.
            self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if self._state != "running":
            raise ConfigError("only a running Monitor can be handed to another process")
        return {"fifo": self._fifo, "silent_s": self._silent_s, "synchronize": self._synchronize}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(synchronize=state["synchronize"])  # type: ignore[misc]  # a copy begins as a new one
        self._fifo, self._silent_s = state["fifo"], state["silent_s"]
        self._owner, self._lost, self._state = False, False, "running"


class _Gone(ResultError):  # noqa: N818  what happened, as the others of the tree are named
    """The recorder's answers have ended."""


class Window:
    """One window, or one after the other, of a name; see `Monitor.window`."""

    __slots__ = ("_identifier", "_monitor", "_pid", "name", "output", "prompt", "silent", "synchronizes")

    def __init__(self, monitor: Monitor, name: str, *, silent: bool, synchronize: bool | None) -> None:
        self._monitor = monitor
        self.name = name
        self.silent = silent
        self.synchronizes = True if synchronize is None else synchronize
        self._identifier: str | None = None
        self._pid = 0
        self.prompt: int | None = None
        self.output: int | None = None

    def start(self) -> Self:
        """Open it by hand, for where no `with` fits; `stop` closes it, in this or another thread."""
        if self._identifier is not None:
            raise ConfigError(
                f"window {self.name!r} is open already",
                hint="take another: m.window(name) makes one each time",
            )
        self.prompt = self.output = None
        self._identifier = self._monitor._open(self)  # noqa: SLF001  the two are one thing
        self._pid = os.getpid()
        return self

    def stop(self, *, error: str | None = None) -> None:
        identifier = self._identifier
        if identifier is None:
            raise ConfigError(f"window {self.name!r} is not open: it was closed already, or never entered")
        self._identifier = None
        # A child that was forked inside leaves its parent's window alone.
        if self._pid == os.getpid():
            self._monitor._close(self, identifier, error)  # noqa: SLF001  the same

    def tokens(self, *, prompt: int | None = None, output: int | None = None) -> None:
        """What went in and came out; adds to what was stated before in this window."""
        for given in (prompt, output):
            if given is not None and not _is_count(given):
                raise ConfigError(
                    f"window {self.name!r}: tokens are a whole number of at least 0, got {given!r:.80}"
                )
        if prompt is not None:
            self.prompt = (self.prompt or 0) + int(prompt)
        if output is not None:
            self.output = (self.output or 0) + int(output)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.stop(error=None if kind is None else kind.__name__)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.stop(error=None if kind is None else kind.__name__)

    def __call__(self, function: F) -> F:
        """As a decorator: a window around each call."""
        import inspect  # it takes longer to import than all of this module

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"window {self.name!r}: a call of a generator ends before its first value, and would cost "
                "nothing",
                hint="inside of it: with m.window(name)",
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waiting(*arguments: Any, **named: Any) -> Any:
                async with self._another():
                    return await function(*arguments, **named)

            return waiting  # type: ignore[return-value]  # it has the same signature

        @functools.wraps(function)
        def calling(*arguments: Any, **named: Any) -> Any:
            with self._another():
                return function(*arguments, **named)

        return calling  # type: ignore[return-value]  # the same

    def _another(self) -> Window:
        return Window(self._monitor, self.name, silent=self.silent, synchronize=self.synchronizes)


def _checked(name: object) -> str:
    """The name in JSON."""
    hint = 'm.window("generate")'
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"a window's name is a text of 1 to {_LONGEST_NAME} characters, got {name!r:.80}", hint=hint
        )
    # The recorder reads UTF-8, and a terminal shows the name in one line.
    if any(one < " " or "\x7f" <= one <= "\x9f" or "\ud800" <= one <= "\udfff" for one in name):
        raise ConfigError(
            f"a window's name has no line breaks and control characters, got {name!r:.80}", hint=hint
        )
    return json.dumps(name)


def _is_count(given: Any) -> bool:
    """Numbers of numpy and torch are ones too."""
    try:
        return int(given) == given and int(given) >= 0
    except (TypeError, ValueError, OverflowError):
        return False


def _program() -> list[str]:
    return [sys.executable, *sys.argv][:50]


def _used_gpus() -> list[str]:
    """Those that torch has memory on, which the driver may not be able to tell in a container."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return []
    found = []
    for device in range(cuda.device_count()):
        uuid = getattr(cuda.get_device_properties(device), "uuid", None)
        if uuid is not None and cuda.memory_reserved(device):
            found.append(f"GPU-{uuid}")
    return found


def _enlarge(pipe: int) -> None:
    """Room for the marks of a busy second, where the kernel gives it."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            return
