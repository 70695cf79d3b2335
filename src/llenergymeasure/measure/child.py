"""The parent's end of the worker: starts it, asks, waits, and makes sure that nothing of it is left."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Self, TypeVar

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.cgroup import Cgroups
from llenergymeasure.exceptions import ConfigError, ExperimentError, ExperimentInterrupted, ExperimentTimeout
from llenergymeasure.measure import protocol
from llenergymeasure.measure.launch import (
    Launch,
    close_pipe,
    has_ended,
    is_worker,
    kill_session,
    local,
    signal_group,
)
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.records import (
    BlockKind,
    FailureKind,
    Pass,
    RequestCounts,
    RunFailure,
    SessionFacts,
    Stage,
    WarmUp,
)

HELLO_S = 60.0
CANCEL_S = 10.0
TERMINATE_S = 5.0
LOG_TAIL_LINES = 20
# A bar of progress says where it was, and not what went wrong.
_PROGRESS = re.compile(r"\d+%(\||$)|\[\d\d:\d\d<")

Answer = TypeVar("Answer")


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
        self._events = protocol.EventLog(directory / EVENTS_NAME)
        self._deadline_s = time.monotonic() + config.timeout_s if deadline_s is None else deadline_s
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stage: Stage = "load"
        self._closed = False
        self._blocks = 0
        self._launch = launch
        self._pid: int | None = None
        self._beside: tuple[int, ...] = ()
        self._account: RequestCounts | None = None
        self._stack = ExitStack()
        self._stack.callback(self._events.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """No process of the worker's session is alive after this, and none is left unreaped. An error notes
        what became of the requests that were sent to a server.
        """
        self._stack.close()
        account = self._last_account()
        if error is not None and account is not None:
            error.add_note(str(account))

    def pids(self) -> tuple[int, ...]:
        """The worker's process, once there is one; its tree hangs below it. Beside it those that do its work.

        Until the worker has said hello, that of the command that starts it.
        """
        return () if self._pid is None else (self._pid, *self._beside)

    def open(self) -> protocol.Ready:
        self._start()
        self._send(protocol.Open(self._config))
        ready = self._wait(protocol.Ready)
        self._beside = ready.facts.pids
        return ready

    def warm_up(self, began: Callable[[protocol.WarmUpBatch], None] | None = None) -> WarmUp:
        self._stage = "warmup"
        self._send(protocol.StartWarmUp())
        while isinstance(message := self._receive(None), protocol.WarmUpBatch):
            if began is not None:
                began(message)
        return self._wanted(message, protocol.Warm).warm_up

    def run_block(
        self,
        kind: BlockKind,
        passes: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]:
        self._stage = "measure"
        self._blocks += 1
        self._send(protocol.StartBlock(self._blocks, kind, passes))
        self._wait(protocol.Edge)
        before()
        self._send(protocol.Go())
        while isinstance(message := self._receive(None), protocol.NextPass):
            edge()
        self._wanted(message, protocol.Rest)
        after()
        self._send(protocol.Report())
        return self._wait(protocol.BlockDone).passes

    def close(self) -> SessionFacts:
        self._send(protocol.Close())
        facts = self._wait(protocol.Closed).facts
        self._closed = True
        return facts

    def _start(self) -> None:
        launched = self._launch()
        before_ns = time.monotonic_ns()
        with ExitStack() as around:
            around.callback(self._take_away, launched)
            cgroup = Cgroups().make()
            if cgroup is not None:
                around.callback(cgroup.remove)
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    launched.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **launched.variables},
                    start_new_session=True,
                )
            assert process.stdin is not None
            assert process.stdout is not None
            reader = threading.Thread(target=_read, args=(process.stdout, self._inbox), daemon=True)
            # What is here is undone from the last to the first.
            self._stack.callback(_drain, reader, process.stdin, process.stdout)
            self._stack.enter_context(around.pop_all())
        self._stack.callback(process.wait)
        self._stack.callback(kill_session, process.pid)
        self._stack.callback(self._cancel, process)
        if cgroup is not None:
            # Before anybody hears of the process: its CPU time is looked up where it is.
            cgroup.take_in(process.pid)
        self._process, self._pid = process, process.pid
        self._commands: IO[bytes] = process.stdin
        reader.start()
        hello = self._wait(protocol.Hello, at_most_s=HELLO_S)
        launched.greeted()
        if hello.version != protocol.PROTOCOL_VERSION:
            raise self._error(
                "error",
                f"the worker speaks protocol {hello.version}, not {protocol.PROTOCOL_VERSION}: "
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
        self._pid = hello.pid

    def _last_account(self) -> RequestCounts | None:
        """Of a worker that said why it failed, or was cancelled before anybody listened to that."""
        while self._account is None and not self._inbox.empty():
            line = self._inbox.get()
            if line is not None and isinstance(
                said := protocol.MESSAGES.validate_json(line), protocol.Failed
            ):
                self._account = said.requests
        return self._account

    def _send(self, command: protocol.Command) -> None:
        line = protocol.encode_command(command)
        self._events.write("parent", line)
        try:
            self._commands.write(line)
            self._commands.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _wait(self, wanted: type[Answer], *, at_most_s: float | None = None) -> Answer:
        return self._wanted(self._receive(at_most_s), wanted)

    def _wanted(self, message: protocol.Message, wanted: type[Answer]) -> Answer:
        if isinstance(message, protocol.Failed):
            self._account = message.requests
            raise self._failed(message.failure)
        if not isinstance(message, wanted):
            raise self._error("error", f"the worker said {message!r} where {wanted.__name__} was due")
        return message

    def _receive(self, at_most_s: float | None) -> protocol.Message:
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
        return protocol.MESSAGES.validate_json(line)

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
        lines = [line for line in (tail or "").splitlines() if line.strip() and not _PROGRESS.search(line)]
        hint = f"the worker's last line: {lines[-1]}" if lines else None
        return ExperimentError(message, hint=hint, failure=self._failure(kind, message))

    def _failure(self, kind: FailureKind, message: str) -> RunFailure:
        return RunFailure(self._run_id, self._stage, kind, message, log_tail=self._tail())

    def _tail(self) -> str | None:
        if not self._log.exists():
            return None
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(lines) or None

    def _take_away(self, launched: Launch) -> None:
        if (why := launched.ended()) is not None:
            raise self._error("error", f"the worker may still run: {why}")

    def _cancel(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        if not self._closed:
            try:
                self._send(protocol.Cancel())
            except ExperimentError:
                return
        if has_ended(process, CANCEL_S):
            return
        signal_group(process.pid, signal.SIGTERM)
        has_ended(process, TERMINATE_S)


def _read(stream: IO[bytes], inbox: queue.SimpleQueue[bytes | None]) -> None:
    for line in stream:
        inbox.put(line)
    inbox.put(None)


def _drain(reader: threading.Thread, stdin: IO[bytes], stdout: IO[bytes]) -> None:
    close_pipe(stdin)
    if reader.ident is not None:
        reader.join(timeout=TERMINATE_S)
    # A process that got away keeps the pipe open, and closing it would wait for its reader.
    if not reader.is_alive():
        close_pipe(stdout)
