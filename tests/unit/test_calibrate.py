"""Does a calibration find what was put in, with an interval that holds, and does a run use it?"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from benchmarks.boards.host import HostPower, SimulatedHostMeter
from typer.testing import CliRunner

from llenergymeasure.analysis.codes import MEANINGS
from llenergymeasure.cli import app
from llenergymeasure.doctor.calibrate import (
    Asked,
    Step,
    calibrate_simulated,
    calibration_of,
    line_of,
    load_steps,
    mean_between,
    mean_watts,
    read_watts,
    steps_of,
    why_no_offset,
)
from llenergymeasure.doctor.characterise import READ_S
from llenergymeasure.doctor.counter import checked
from llenergymeasure.doctor.load import SimulatedLoad
from llenergymeasure.energy.joules.sources import systematic
from llenergymeasure.energy.meters.calibration import (
    Calibration,
    Characteristics,
    SensorFiles,
    calibrations,
    keep_calibration,
    remember,
)
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording.pacing import quiet_s
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.records import Domain, Quantity, Sample, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import SimulatedSensor

GPU = "GPU-simulated-0"


def steps_by(gain: float, offset_w: float, *, own_gain: float, rng: random.Random) -> list[Step]:
    """Of a board that shows gain × true + offset, by a reference with a gain of its own and noise."""
    window = Window(0, 1)
    true = [rng.uniform(60, 400) for _ in range(14)]
    return [Step(window, gain * watts + offset_w, own_gain * watts + rng.gauss(0.0, 1.5)) for watts in true]


def test_gain_and_offset_lie_in_their_uncertainty_and_so_does_power_at_every_level() -> None:
    rng, held, accuracy = random.Random(1), {"gain": 0, "offset": 0, "low": 0, "high": 0}, 0.003
    for _ in range(200):
        gain, offset_w = rng.uniform(0.87, 1.07), rng.uniform(-24, 16)
        steps = steps_by(gain, offset_w, own_gain=1 + rng.uniform(-1, 1) * accuracy, rng=rng)
        found = calibration_of(line_of(steps), Asked("analyser", accuracy))
        assert found.gain_variance is not None
        assert found.offset_variance is not None
        unsure = accuracy * found.gain + 1.96 * math.sqrt(found.gain_variance)
        held["gain"] += abs(found.gain - 1 / gain) <= unsure
        unsure = accuracy * abs(found.offset_w) + 1.96 * math.sqrt(found.offset_variance)
        held["offset"] += abs(found.offset_w + offset_w / gain) <= unsure
        domain = Domain(
            "gpu:x",
            "gpu",
            (),
            gain=found.gain,
            offset_w=found.offset_w,
            calibrated=found.calibrated_by,
        )
        for name, true_w in (("low", 70.0), ("high", 390.0)):
            shown = found.gain * (gain * true_w + offset_w) + found.offset_w
            low, high = systematic(domain, shown * 10, 10.0) or (math.nan, math.nan)
            held[name] += low <= true_w * 10 <= high
    assert all(186 <= count <= 200 for count in held.values()), held


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_simulated_board_is_calibrated_under_load_steps(seed: int) -> None:
    sensor = SimulatedSensor(gain=0.92, offset_w=-11.0, seed=seed)
    found = calibrate_simulated(sensor, seed=seed).calibration
    assert found.gain == pytest.approx(1 / 0.92, rel=0.01)
    assert found.offset_w == pytest.approx(11 / 0.92, abs=1.5)
    assert found.covariance is not None
    assert found.covariance < 0


@pytest.mark.parametrize("rest_is_known", [True, False])
def test_a_reference_that_sees_the_machine_gives_the_offset_also_where_the_rest_is_stated(
    rest_is_known: bool,
) -> None:
    rng, held, widths, covariances = random.Random(2), [0, 0], [], []
    for _ in range(200):
        gain, offset_w = rng.uniform(0.87, 1.07), rng.uniform(-24, 16)
        own_gain, share, rest_w = 1 + rng.uniform(-1, 1) * 0.01, rng.uniform(0.90, 0.94), 180.0
        seen = steps_by(gain, offset_w, own_gain=own_gain / share, rng=rng)
        seen = [replace(one, reference_w=one.reference_w + own_gain * rest_w) for one in seen]
        stated = own_gain * rest_w + rng.uniform(-4, 4)
        rest = (stated - 4, stated + 4) if rest_is_known else None
        asked = Asked("wall", 0.01, efficiency=(0.90, 0.94), rest_w=rest)
        found = calibration_of(line_of(seen), asked)
        assert (why_no_offset(line_of(seen), asked) is None) == rest_is_known
        domain = Domain(
            "gpu:x", "gpu", (), gain=found.gain, offset_w=found.offset_w, calibrated=found.calibrated_by
        )
        for number, true_w in enumerate((70.0, 390.0)):
            shown = found.gain * (gain * true_w + offset_w) + found.offset_w
            low, high = systematic(domain, shown, 1.0) or (math.nan, math.nan)
            held[number] += low <= true_w <= high
            widths.append(high - low)
        covariances.append(found.covariance)
    assert all(count >= 186 for count in held), held
    assert (max(widths[::2]) < 25) == rest_is_known
    assert all((one != 0) == rest_is_known for one in covariances)


def test_a_slow_reference_is_given_the_time_that_it_needs(tmp_path: Path) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60.0, sensor=SimulatedSensor(gain=0.95, offset_w=6.0))
    host = HostPower(nvml.gpus[0].power)
    meter = SimulatedHostMeter(host, step_s=5.0, window_s=15.0, phase_s=1.0, lag_s=1.0, clock=clock)
    recorder = Recorder([NvmlMeter(nvml, clock=clock), meter], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    with meter:
        memory_s = quiet_s(meter.domains()[0])[1]
    with clock.every(0.02, recorder.poll):
        windows = load_steps(SimulatedLoad(nvml, idle_w=60.0, active_w=400.0), clock, memory_s=memory_s)
    recorder.stop()
    watts = partial(mean_watts, recorder, "host")
    line = line_of(steps_of(recorder, f"gpu:{GPU}", windows, watts, of_file=False))
    assert memory_s >= 20
    assert line.slope == pytest.approx(1 / 0.95 / 0.92, rel=0.01)
    # The processor and the rest of the machine, less what the board shows of nothing.
    assert line.intercept_w == pytest.approx((40 + 55 - 6 / 0.95) / 0.92, abs=1.5)


def test_a_kept_calibration_is_applied_by_the_meter_and_narrows_what_is_systematic(tmp_path: Path) -> None:
    files = SensorFiles(tmp_path / "calibration.json", tmp_path / "sensors.json")
    nvml = SimulatedNvml(time, idle_w=60.0)
    with NvmlMeter(nvml, files=files) as meter:
        (before,) = meter.domains()
    steps = steps_by(0.95, 5.0, own_gain=1.0, rng=random.Random(4))
    keep_calibration(GPU, calibration_of(line_of(steps), Asked("analyser", 0.002)), files=files)
    with NvmlMeter(nvml, files=files) as meter:
        (after,) = meter.domains()
    assert calibrations(files)[GPU].against == "analyser"
    assert after.gain == pytest.approx(1 / 0.95, rel=0.01)
    assert after.calibrated is not None
    widths = [
        high - low for low, high in filter(None, (systematic(one, 3e3, 10.0) for one in (before, after)))
    ]
    assert widths[1] < widths[0] / 10


def test_a_calibration_given_by_hand_needs_all_of_its_covariance_or_none(tmp_path: Path) -> None:
    files = SensorFiles(calibration=tmp_path / "calibration.json")
    assert Calibration(1.0, 0.0).calibrated_by is None
    (tmp_path / "calibration.json").write_text('{"GPU-x": {"gain": 1.0, "offset_w": 0.0, "accuracy": 0.01}}')
    with pytest.raises(ConfigError, match="belong together"):
        calibrations(files)


def test_a_csv_is_read_with_either_form_of_time_and_a_mistake_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,W\n2026-05-01T12:00:00Z,100\n2026-05-01T12:00:10+00:00,200\n\n")
    seconds, watts = read_watts(path)
    assert np.diff(seconds).tolist() == [10.0]
    assert mean_between(seconds, watts, seconds[0], seconds[0] + 5) == pytest.approx(125.0)
    for text, where in (
        ("1,2\n2,x\n", "line 2"),
        ("1,2\n1,3\n", "line 2"),
        ("1,2\n", "no series"),
        ("1,2\n2,nan\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=where):
            read_watts(path)


class LookingCounter:
    """A counter that sums what a sensor sees in the last `part` of each of its periods, `lag_s` late."""

    def __init__(self, nvml: SimulatedNvml, clock: VirtualClock, *, part: float, lag_s: float) -> None:
        self._power, self._clock, self._part, self._lag_s = nvml.gpus[0].power, clock, part, lag_s
        self._next_ns, self._joules = clock.monotonic_ns(), 0.0

    def why_unavailable(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def domains(self) -> Sequence[Domain]:
        return [Domain(f"gpu:{GPU}", "gpu", (Quantity("energy", "fake.energy", "J", 1e-3),))]

    def sample(self) -> Sequence[Sample]:
        now_ns = self._clock.monotonic_ns()
        while self._next_ns <= now_ns:
            end_ns = max(0, self._next_ns - round(self._lag_s * 1e9))
            start_ns = max(0, end_ns - round(self._part * 1e8))
            self._joules += self._power.energy_j(start_ns, end_ns) / self._part
            self._next_ns += 100_000_000
        return [Sample(f"gpu:{GPU}", "energy", now_ns, now_ns, round(self._joules * 1e3))]


@pytest.mark.parametrize(("part", "lag_s"), [(1.0, 0.06), (0.25, 0.12), (0.5, 0.0)])
def test_a_counter_fed_by_a_part_time_sensor_beats_and_its_lag_is_found(part: float, lag_s: float) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60.0)
    (gpu,) = gpu_facts(nvml)
    load = SimulatedLoad(nvml, idle_w=60.0, active_w=400.0)
    with clock.every(READ_S, load.waver), load:
        found = checked(gpu, LookingCounter(nvml, clock, part=part, lag_s=lag_s), load, clock)
    assert found.characteristics is not None
    assert found.looks_at == pytest.approx(part, abs=0.08)
    assert (found.characteristics.window_ns is None) == (part == 1.0)
    assert found.characteristics.step_ns == pytest.approx(1e8, rel=0.02)
    assert found.characteristics.lag_ns == pytest.approx(lag_s * 1e9, abs=25e6)


def test_what_was_found_of_a_counter_sets_how_long_a_silence_waits_for_it(tmp_path: Path) -> None:
    files = SensorFiles(characteristics=tmp_path / "sensors.json")
    remember(GPU, "simulated", {"energy": Characteristics(10**8, 25_000_000, 280_000_000)}, files=files)
    with NvmlMeter(SimulatedNvml(time, idle_w=60.0), files=files) as meter:
        (known,) = meter.domains()
    with NvmlMeter(
        SimulatedNvml(time, idle_w=60.0), files=SensorFiles(characteristics=tmp_path / "no")
    ) as other:
        (unknown,) = other.domains()
    assert quiet_s(unknown)[1] == 0.15
    assert quiet_s(known)[1] == pytest.approx(0.3)


def test_the_command_shows_the_simulated_board_and_asks_for_what_it_needs() -> None:
    done = CliRunner().invoke(app, ["calibrate", "--simulated", "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["calibration"]["gain"] == pytest.approx(1 / 0.95, rel=0.01)
    assert found["kept_in"] is None
    for arguments in ([], ["--against", "x.csv"], ["--accuracy", "1"]):
        refused = CliRunner().invoke(app, ["calibrate", *arguments])
        assert refused.exit_code == 2
        assert "--accuracy" in refused.stderr
    wrong = CliRunner().invoke(
        app, ["calibrate", "--against", "wall", "--accuracy", "1", "--efficiency", "95:90"]
    )
    assert wrong.exit_code == 2
    assert "calibration_old" in MEANINGS


def test_an_option_that_would_have_no_say_is_refused() -> None:
    for arguments in (
        ["--simulated", "--against", "x.csv", "--accuracy", "1"],
        ["--check", "--against", "x.csv"],
    ):
        refused = CliRunner().invoke(app, ["calibrate", *arguments])
        assert refused.exit_code == 2
        assert "leave out --against" in refused.stderr


def test_a_counter_that_is_not_late_is_late_by_less_than_a_read_shows() -> None:
    done = CliRunner().invoke(app, ["calibrate", "--check", "--simulated"])
    assert "late by less than 4.00 ms" in done.stdout
