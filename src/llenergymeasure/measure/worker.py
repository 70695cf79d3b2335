"""The child: answers the parent's commands with a backend, and outlives neither its stdin nor a cancel.

Started as `python -m llenergymeasure.measure.worker` with stdin and stdout as the protocol's streams and
stderr on `worker.log`, as the leader of a session of its own.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from llenergymeasure.backends import load_backend
from llenergymeasure.exceptions import ConfigError, LLEMError
from llenergymeasure.measure import protocol
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.launch import adopt_orphans, kill_session
from llenergymeasure.records import FailureKind, RunFailure
from llenergymeasure.results.folder import explained


class Channel:
    """The protocol's streams, claimed from fd 0 and 1; what engines print goes to the log from then on."""

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, message: protocol.Message) -> None:
        self._out.write(protocol.encode_message(message))
        self._out.flush()

    def hear(self) -> protocol.Command:
        return protocol.COMMANDS.validate_json(self._commands.get())

    def _listen(self) -> None:
        """Pass commands on; a cancel interrupts whatever the main thread does; the parent's end ends all."""
        main_thread = threading.main_thread().ident
        # Unbuffered: the interpreter can't shut down while a thread waits inside a buffered reader.
        for line in os.fdopen(0, "rb", buffering=0, closefd=False):
            if json.loads(line).get("do") == "cancel" and main_thread is not None:
                signal.pthread_kill(main_thread, signal.SIGINT)
            else:
                self._commands.put(line)
        kill_session(os.getsid(0))
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    channel = Channel()
    adopt_orphans()
    channel.say(protocol.Hello(protocol.PROTOCOL_VERSION, os.getpid(), time.monotonic_ns()))
    first = channel.hear()
    if not isinstance(first, protocol.Open):
        raise RuntimeError(f"open comes first, got {first}")
    position = Position()
    with Bench(first.config, load=load_backend, clock=time, position=position) as bench:
        try:
            with explained("a file of the engine", Path(tempfile.gettempdir()).resolve()):
                _serve(channel, bench)
        # The top of the worker: whatever an engine throws becomes a RunFailure, and a cancel comes as SIGINT.
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
            with suppress(OSError):  # the log may be on a disk that is full; the parent is still informed
                traceback.print_exc()
            channel.say(protocol.Failed(_failure(error, position), bench.stop()))
            return 1
    return 0


def _serve(channel: Channel, bench: Bench) -> None:
    """Load the model, then answer commands until close."""
    channel.say(bench.open())
    while True:
        match channel.hear():
            case protocol.StartWarmUp():
                warm_up = bench.warm_up(channel.say)
                channel.say(protocol.Warm(warm_up))
            case protocol.StartBlock() as asked:
                channel.say(_block(bench, channel, asked))
            case protocol.Close():
                channel.say(protocol.Closed(bench.close()))
                return
            case other:
                raise RuntimeError(f"a command out of turn: {other}")


def _block(bench: Bench, channel: Channel, asked: protocol.StartBlock) -> protocol.BlockDone:
    def wait_after(message: protocol.Message, wanted: type[protocol.Command]) -> None:
        channel.say(message)
        answer = channel.hear()
        if not isinstance(answer, wanted):
            raise RuntimeError(f"block {asked.number} waits for {wanted.__name__}, got {answer}")

    passes = bench.run_block(
        asked.kind,
        asked.passes,
        before=lambda: wait_after(protocol.Edge(asked.number), protocol.Go),
        edge=lambda: channel.say(protocol.NextPass(asked.number)),
        after=lambda: wait_after(protocol.Rest(asked.number), protocol.Report),
    )
    return protocol.BlockDone(asked.number, asked.kind, passes)


def _failure(error: BaseException, position: Position) -> RunFailure:
    where = f" (batch {position.batches} of the {position.stage} stage)" if position.batches else ""
    message = str(error) or type(error).__name__
    if not isinstance(error, LLEMError):
        message = f"{type(error).__name__}: {message}"
    return RunFailure(
        run_id="",
        stage=position.stage,
        kind=_kind(error),
        message=message + where,
        traceback="".join(traceback.format_exception(error)),
        hint=error.hint if isinstance(error, LLEMError) else None,
    )


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, MemoryError):
        return "oom"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, ConfigError):
        return "config"
    return "error"


if __name__ == "__main__":
    sys.exit(main())
