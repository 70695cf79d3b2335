"""Trees like /sys/class/hwmon and /sys/class/power_supply, whose numbers follow a power that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from llenergymeasure.energy import Meter
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.waveform import Waveform


def chip(root: Path, number: int, name: str, device: str, **files: str | int | bytes) -> Path:
    """`hwmon<number>` of the driver `name` at `device`; `files` are what lies in it."""
    folder = root / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    at = root / "devices" / device
    at.mkdir(parents=True, exist_ok=True)
    (folder / "device").symlink_to(at)
    write(folder, name=name, **files)
    return folder


def supply(root: Path, name: str, **files: str | int | bytes) -> Path:
    folder = root / "power_supply" / name
    folder.mkdir(parents=True)
    write(folder, **files)
    return folder


def write(folder: Path, **files: str | int | bytes) -> None:
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())


@dataclass(slots=True)
class Driven:
    """Files whose numbers follow `clock`: counters of µJ that step every `step_s`, and fields of µW."""

    clock: VirtualClock
    step_s: float = 0.001
    counters: dict[Path, Waveform] = field(default_factory=dict)
    fields: dict[Path, Waveform] = field(default_factory=dict)

    def tick(self) -> None:
        now_ns = self.clock.monotonic_ns()
        stepped_ns = now_ns - now_ns % round(self.step_s * 1e9)
        for path, power in self.counters.items():
            write(path.parent, **{path.name: 1_000_000 + int(power.energy_j(0, stepped_ns) * 1e6)})
        for path, power in self.fields.items():
            write(path.parent, **{path.name: round(power.power_w(now_ns) * 1e6)})


@dataclass(frozen=True, slots=True)
class Recorded:
    trace: Trace
    before: Window
    passes: tuple[Window, ...]
    after: Window

    def spent(self, domain: str) -> Spent:
        return block_energy(self.trace, domain, before=self.before, passes=self.passes, after=self.after)


def record_block(
    meters: Sequence[Meter],
    clock: VirtualClock,
    *,
    tick: Callable[[], None],
    work: Callable[[bool], None],
    folder: Path,
    seconds: float = 6.0,
    boundary: str = "auto",
) -> Recorded:
    """One block of three passes between two silences of the length that the recorder asks for."""
    recorder = Recorder(meters, clock=clock, directory=folder, boundary=boundary)
    tick()
    recorder.start(threaded=False)
    with clock.every(0.005, tick), clock.every(recorder.tick_s, recorder.poll):
        least_s, lag_s = recorder.quiet_s
        recorder.dense(True)
        edges = [clock.monotonic_ns()]
        clock.sleep(least_s + lag_s)
        edges.append(clock.monotonic_ns())
        work(True)
        for _ in range(3):
            clock.sleep(seconds / 3)
            edges.append(clock.monotonic_ns())
        work(False)
        clock.sleep(least_s + lag_s)
        edges.append(clock.monotonic_ns())
        clock.sleep(0.2)
        recorder.stop()
    windows = [Window(start, end) for start, end in pairwise(edges)]
    return Recorded(recorder.trace(), windows[0], tuple(windows[1:-1]), windows[-1])
