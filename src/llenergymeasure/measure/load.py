"""What keeps a device busy while its sensor is watched?

Run as a module it is the busy process: it says `ready`, works after the line `start` and stops at `stop`.
"""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, Protocol, Self

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.simulation.device import SimulatedNvml

# A product of two such matrices takes milliseconds on a recent GPU: short against every sensor's period, long
# against the launch of a kernel.
SIZE = {"cuda": 8192, "cpu": 256}
READY_S = 120.0
ANSWER_S = 10.0


class Load(Protocol):
    """Work for a device that can be switched. A context manager, which ends it for good."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class SimulatedLoad:
    """The simulated board's power, switched at once. `waver` moves it a little, as a real one always does."""

    def __init__(self, nvml: SimulatedNvml, *, idle_w: float, active_w: float) -> None:
        self._nvml, self._idle_w, self._active_w = nvml, idle_w, active_w
        self._now_w = idle_w
        self._random = random.Random(0)  # noqa: S311  a simulation, not a secret

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        self._now_w = self._active_w
        self._nvml.set_power(self._now_w)

    def stop(self) -> None:
        self._now_w = self._idle_w
        self._nvml.set_power(self._now_w)

    def waver(self) -> None:
        self._nvml.set_power(self._now_w * self._random.gauss(1.0, 0.02))


class MatrixLoad:
    """Matrix products by PyTorch in a child process, on the GPU of that UUID, or on the CPU with None."""

    def __init__(self, uuid: str | None) -> None:
        self._uuid = uuid
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Returns once the device is ready to work. EnergyError where it can't."""
        visible = {} if self._uuid is None else {"CUDA_VISIBLE_DEVICES": self._uuid}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llenergymeasure.measure.load", "cpu" if self._uuid is None else "cuda"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent alone, which then ends this one.
            start_new_session=True,
            env={**os.environ, **visible},
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        try:
            self._expect("ready", READY_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def start(self) -> None:
        self._ask("start", "started")

    def stop(self) -> None:
        """Returns once the device has finished its work."""
        self._ask("stop", "stopped")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _ask(self, command: str, answer: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EnergyError("the load of its own has ended by itself") from error
        self._expect(answer, ANSWER_S)

    def _expect(self, wanted: str, seconds: float) -> None:
        try:
            said = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise EnergyError(f"the load of its own did not answer within {seconds:.0f} s") from None
        if said != wanted:
            raise EnergyError(f"no load of its own can be run: {said or 'its process died'}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


def main(arguments: Sequence[str]) -> None:
    """The busy process: commands on stdin, answers on stdout; it ends with its stdin."""
    device = arguments[0]
    try:
        import torch

        left, right = (torch.randn(SIZE[device], SIZE[device], device=device) for _ in range(2))
        out = left @ right
    except (ImportError, RuntimeError, AssertionError) as error:
        _say(str(error).splitlines()[0])
        return
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    _say("ready")
    while commands.get() == "start":
        _say("started")
        while commands.empty():
            torch.mm(left, right, out=out)
            _finish(torch, device)
        if commands.get() != "stop":
            return
        _say("stopped")


def _finish(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _listen(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line.strip())
    commands.put("end")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
