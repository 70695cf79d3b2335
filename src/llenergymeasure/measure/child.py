"""The parent's end of the worker: starts it, asks, waits, and makes sure that nothing of it is left."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.cgroup import Cgroup, Cgroups
from llenergymeasure.exceptions import ConfigError, ExperimentError, ExperimentInterrupted, ExperimentTimeout
from llenergymeasure.measure.events import EVENTS_NAME, EventLog
from llenergymeasure.measure.launch import (
    Launch,
    close_pipe,
    has_ended,
    is_worker,
    kill_session,
    local,
    signal_group,
)
from llenergymeasure.measure.protocol import (
    MESSAGES,
    PROTOCOL_VERSION,
    BlockDone,
    Cancel,
    Close,
    Closed,
    Command,
    Edge,
    Failed,
    Go,
    Hello,
    Message,
    Open,
    Ready,
    Report,
    Rest,
    StartBlock,
    StartWarmUp,
    Warm,
    WarmUpBatch,
    encode_command,
)
from llenergymeasure.records import BlockKind, FailureKind, Pass, RunFailure, SessionFacts, Stage, WarmUp

HELLO_S = 60.0
CANCEL_S = 10.0
TERMINATE_S = 5.0
LOG_TAIL_LINES = 20

Answer = TypeVar("Answer", Hello, Ready, Warm, Edge, Rest, BlockDone, Closed)


class ChildWorker:
    """One worker process, a session leader. Leaving the context ends it and every process of its group:
    by message, after 10 s by SIGTERM, after 5 s more by SIGKILL.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        run_id: str,
        directory: Path,
        deadline_s: float | None = None,
        launch: Callable[[], Launch] = local,
    ) -> None:
        """`deadline_s` is the monotonic time, in seconds, at which the run is over. `launch` is asked once
        for every process that is started.
        """
        self._config = config
        self._run_id = run_id
        self._log = directory / "worker.log"
        self._events = EventLog(directory / EVENTS_NAME)
        self._deadline_s = time.monotonic() + config.timeout_s if deadline_s is None else deadline_s
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stage: Stage = "load"
        self._closed = False
        self._blocks = 0
        self._launch = launch
        self._launched: Launch | None = None
        self._worker_pid: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup: Cgroup | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._end()
        finally:
            self._events.close()

    def pids(self) -> tuple[int, ...]:
        """The worker's process, once there is one; its tree hangs below it.

        Until the worker has said hello, that of the command that starts it.
        """
        if self._process is None:
            return ()
        return (self._process.pid if self._worker_pid is None else self._worker_pid,)

    def open(self) -> Ready:
        self._start()
        self._send(Open(self._config))
        return self._wait(Ready)

    def warm_up(self, began: Callable[[int, float | None], None] | None = None) -> WarmUp:
        self._stage = "warmup"
        self._send(StartWarmUp())
        while isinstance(message := self._receive(None), WarmUpBatch):
            if began is not None:
                began(message.number, message.last_s)
        return self._wanted(message, Warm).warm_up

    def run_block(
        self, kind: BlockKind, passes: int, *, before: Callable[[], None], after: Callable[[], None]
    ) -> tuple[Pass, ...]:
        self._stage = "measure"
        self._blocks += 1
        self._send(StartBlock(self._blocks, kind, passes))
        self._wait(Edge)
        before()
        self._send(Go())
        self._wait(Rest)
        after()
        self._send(Report())
        return self._wait(BlockDone).passes

    def close(self) -> SessionFacts:
        self._send(Close())
        facts = self._wait(Closed).facts
        self._closed = True
        return facts

    def _start(self) -> None:
        self._launched = self._launch()
        self._cgroup = Cgroups().make()
        before_ns = time.monotonic_ns()
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._launched.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._launched.variables},
                start_new_session=True,
            )
        if self._cgroup is not None:
            # Before anybody hears of the process: its CPU time is looked up where it is.
            self._cgroup.take_in(process.pid)
        self._process = process
        self._reader = threading.Thread(target=_read, args=(self._process, self._inbox), daemon=True)
        self._reader.start()
        hello = self._wait(Hello, at_most_s=HELLO_S)
        self._launched.greeted()
        if hello.version != PROTOCOL_VERSION:
            raise self._error(
                "error",
                f"the worker speaks protocol {hello.version}, not {PROTOCOL_VERSION}: "
                "install the same version of llem where it runs as here",
            )
        if not before_ns <= hello.t_ns <= time.monotonic_ns():
            raise self._error(
                "error", "the worker's monotonic clock is not the parent's; run both on one kernel"
            )
        if not is_worker(hello.pid):
            raise self._error(
                "error",
                f"the worker says that it is process {hello.pid}, which is none of this host's workers; "
                "it must share this host's process numbers, or neither its work nor its GPUs can be seen",
            )
        self._worker_pid = hello.pid

    def _send(self, command: Command) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        line = encode_command(command)
        self._events.write("parent", line)
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _wait(self, wanted: type[Answer], *, at_most_s: float | None = None) -> Answer:
        return self._wanted(self._receive(at_most_s), wanted)

    def _wanted(self, message: Message, wanted: type[Answer]) -> Answer:
        if isinstance(message, Failed):
            raise self._failed(message.failure)
        if not isinstance(message, wanted):
            raise self._error("error", f"the worker said {message!r} where {wanted.__name__} was due")
        return message

    def _receive(self, at_most_s: float | None) -> Message:
        left_s = self._deadline_s - time.monotonic()
        try:
            line = self._inbox.get(timeout=max(0.0, min(left_s, at_most_s or left_s)))
        except queue.Empty:
            if at_most_s is not None and at_most_s < left_s:
                raise self._error("timeout", f"the worker did not start within {at_most_s:.0f} s") from None
            raise self._timed_out() from None
        if line is None:
            raise self._died()
        self._events.write("worker", line)
        return MESSAGES.validate_json(line)

    def _timed_out(self) -> ExperimentTimeout:
        message = (
            f"the run took longer than {self._config.timeout_s:g} s and was ended in its {self._stage} stage"
        )
        return ExperimentTimeout(
            message,
            hint="raise timeout_s, or lower n or max_output_tokens",
            failure=self._failure("timeout", message),
        )

    def _died(self) -> ExperimentError:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=TERMINATE_S)
        except subprocess.TimeoutExpired:
            return self._error("crash", "the worker closed its stream and hangs")
        if code == -signal.SIGKILL:
            return self._error(
                "crash",
                f"the worker was killed (signal 9) in its {self._stage} stage; when memory is short, the "
                "kernel does that",
            )
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return self._error("crash", f"the worker died of {how} in its {self._stage} stage")

    def _failed(self, failure: RunFailure) -> ExperimentError | ConfigError:
        whole = replace(failure, run_id=self._run_id, log_tail=self._tail())
        message, hint = failure.message, failure.hint
        if failure.kind == "config":
            return ConfigError(message, hint=hint)
        if failure.kind == "interrupted":
            return ExperimentInterrupted(message, failure=whole)
        if failure.kind == "oom":
            hint = (
                hint
                or "lower the batch size, max_input_tokens or max_output_tokens, or take a smaller precision"
            )
            message = f"out of memory in the {failure.stage} stage: {message}"
        return ExperimentError(message, hint=hint, failure=whole)

    def _error(self, kind: FailureKind, message: str) -> ExperimentError:
        tail = self._tail()
        hint = f"the worker's last line: {tail.splitlines()[-1]}" if tail else None
        return ExperimentError(message, hint=hint, failure=self._failure(kind, message))

    def _failure(self, kind: FailureKind, message: str) -> RunFailure:
        return RunFailure(self._run_id, self._stage, kind, message, log_tail=self._tail())

    def _tail(self) -> str | None:
        if not self._log.exists():
            return None
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(lines) or None

    def _end(self) -> None:
        """No process of the worker's session is alive after this, and none is left unreaped."""
        process = self._process
        if process is None:
            self._take_away()
            return
        try:
            self._cancel(process)
        finally:
            kill_session(process.pid)
            process.wait()
            try:
                self._take_away()
            finally:
                if self._cgroup is not None:
                    self._cgroup.remove()
                self._drain(process)

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            close_pipe(process.stdin)
        if self._reader is not None:
            self._reader.join(timeout=TERMINATE_S)
            # A process that got away keeps the pipe open, and closing it would wait for its reader.
            if process.stdout is not None and not self._reader.is_alive():
                close_pipe(process.stdout)

    def _take_away(self) -> None:
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        if (why := launched.ended()) is not None:
            raise self._error("error", f"the worker may still run: {why}")

    def _cancel(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        if not self._closed:
            try:
                self._send(Cancel())
            except ExperimentError:
                return
        if has_ended(process, CANCEL_S):
            return
        signal_group(process.pid, signal.SIGTERM)
        has_ended(process, TERMINATE_S)


def _read(process: subprocess.Popen[bytes], inbox: queue.SimpleQueue[bytes | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        inbox.put(line)
    inbox.put(None)
