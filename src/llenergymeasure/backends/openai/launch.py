"""How does a server come up for a run, and go with all that it started?"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import psutil
from pydantic import JsonValue

from llenergymeasure.backends import Refusal
from llenergymeasure.backends.openai.section import LaunchConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import resolve, weights_path

HOST = "127.0.0.1"
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# Within what a cancelled worker is given to end.
_TERMINATE_S = 5.0
_TRACKERS_S = 2.0
_TAIL_LINES = 8
# Ends the process group that it is in, and itself, once its stdin is closed.
_GUARD = f'read -r _; trap "" TERM; kill -TERM 0; sleep {_TERMINATE_S:g}; kill -KILL 0'


@dataclass(frozen=True, slots=True)
class Launched:
    """A server's process, where it will listen, and the words that started it."""

    process: subprocess.Popen[bytes]
    base_url: str
    command: tuple[str, ...]
    log: IO[bytes]

    def why_ended(self) -> BackendError | None:
        """None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return BackendError(f"the server ended {how}", hint=self.last_lines())

    def last_lines(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        said = "\n  ".join(line.rstrip() for line in lines[-_TAIL_LINES:] if line.strip())
        return f"its last lines:\n  {said}" if said else "it said nothing; start its command by hand"


def why_not_launched(config: ExperimentConfig, launch: LaunchConfig) -> Refusal | None:
    if (launch.engine is None) == (launch.command is None):
        return Refusal(
            "openai.launch needs either engine or command",
            "name one of them, such as openai.launch.engine=vllm",
        )
    if launch.engine is not None and config.precision not in _DTYPES and launch.engine != "llamacpp":
        return Refusal(
            f"precision {config.precision} is not what {launch.engine} is started with",
            "take one of fp32, fp16 and bf16, and name what quantises in openai.launch.options",
        )
    if launch.engine == "llamacpp" and resolve(config.model).kind != "gguf":
        return Refusal(f"{config.model} is no GGUF file", "llama.cpp serves nothing else; name one")
    if not shutil.which(words[0] if (words := launch.command) else launch.python or sys.executable):
        return Refusal("the server's program is not there", "check openai.launch.command or launch.python")
    return None


@contextmanager
def launched(config: ExperimentConfig, launch: LaunchConfig, base_url: str | None) -> Iterator[Launched]:
    """The server's process, in a group of its own in the worker's session; all of the group ends with this,
    and with this process where that is killed.

    BackendError in here becomes that of a server that has ended, with its last lines. What it printed goes to
    the worker's log when it ends.
    """
    port = _free_port()
    command = command_of(config, launch, port)
    with TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"VLLM_HOST_IP": HOST} | launch.env,
                process_group=0,
            )
        except OSError as error:
            raise BackendError(
                f"{command[0]} can't be started: {error}", hint="check openai.launch"
            ) from error
        found = Launched(process, base_url or f"http://{HOST}:{port}/v1", command, log)
        try:
            with _guarded(process):
                yield found
        except BackendError as error:
            why = found.why_ended()
            if why is None or error.hint == why.hint:
                raise
            raise BackendError(f"{error.message}: {why.message}", hint=why.hint) from error
        finally:
            _end(process)
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))


@contextmanager
def _guarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """In the server's group a shell waits, whose stdin the kernel closes where this process is killed."""
    with ExitStack() as stack:
        # No shell, or a group that is gone already.
        with suppress(OSError):
            guard = subprocess.Popen(
                ["sh", "-c", _GUARD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=process.pid,
            )
            stack.callback(guard.communicate)
            stack.callback(guard.kill)
        yield


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: a server's own children may outlive it."""
    _signal(process, signal.SIGTERM)
    _wait(process, _TERMINATE_S)
    for one in _members(process.pid):
        with suppress(psutil.Error):
            if not any("multiprocessing.resource_tracker" in word for word in one.cmdline()):
                one.kill()
    # Trackers free the shared memory that the others leave, and then end by themselves.
    _wait(process, _TRACKERS_S)
    _signal(process, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], most_s: float) -> None:
    until = time.monotonic() + most_s
    while _is_left(process) and time.monotonic() < until:
        time.sleep(0.05)


def _members(group: int) -> Iterator[psutil.Process]:
    """Those that live; the dead may have a slow reaper."""
    for one in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE:
                yield one


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _is_left(process: subprocess.Popen[bytes]) -> bool:
    """Whether any of the group lives. Those whose parent is gone are the worker's to reap, or another's."""
    process.poll()
    with suppress(ChildProcessError):
        while os.waitpid(-process.pid, os.WNOHANG)[0]:
            pass
    return any(True for _ in _members(process.pid))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def command_of(config: ExperimentConfig, launch: LaunchConfig, port: int) -> tuple[str, ...]:
    model = _model(config, is_file=launch.engine == "llamacpp")
    if launch.command is not None:
        return tuple(word.replace("{port}", str(port)).replace("{model}", model) for word in launch.command)
    where = ("--host", HOST, "--port", str(port))
    dtype = ("--dtype", _DTYPES.get(config.precision, "auto"))
    named: dict[str | None, tuple[str, ...]] = {
        "vllm": (
            *("vllm.entrypoints.openai.api_server", *where, "--model", model, *dtype),
            *("--served-model-name", config.model, "--generation-config", "vllm"),
            "--no-enable-prefix-caching",
        ),
        "llamacpp": (
            *("llama_cpp.server", *where, "--model", model, "--model_alias", config.model),
            # Without the last one a request ends the one before it.
            *("--n_ctx", str(config.max_tokens), "--interrupt_requests", "false"),
        ),
        "transformers": ("transformers.cli.transformers", "serve", model, *where, *dtype),
    }
    return (launch.python or sys.executable, "-m", *named[launch.engine], *_options(launch))


def _options(launch: LaunchConfig) -> Iterator[str]:
    """As words of a command line, by the server's own names; true is a flag without a value for all but
    llama.cpp's.
    """
    for name, value in launch.options.items():
        flag = f"--{name}" if launch.engine == "llamacpp" else f"--{name.replace('_', '-')}"
        if isinstance(value, bool) and launch.engine != "llamacpp":
            yield flag if value else flag.replace("--", "--no-", 1)
        elif value is not None:
            yield from (flag, _word(value))


def _word(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _model(config: ExperimentConfig, *, is_file: bool) -> str:
    """What the server loads: a directory, a file, or the hub's name."""
    resolved = resolve(config.model)
    path: Path | None = resolved.path if is_file or resolved.kind == "random" else weights_path(resolved)
    return config.model if path is None else str(path)
