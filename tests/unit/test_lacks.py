"""A sick sensor among healthy ones: the total leaves it out by name, and never falls to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks.boards.rapl import SimulatedRapl, intel_zones
from scripted_run import PASSES, S, close_looks, codes, measured

from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.calibration import SensorFiles
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.rapl import RaplMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.records import Measurement, SessionFacts
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.nvml_names import Code
from llenergymeasure.simulation.waveform import Waveform

IN_A_PASS_S, AT_REST_S = 33.0, 50.0
PASS_S = 18.0


class Host:
    """Two boards at 300 and 100 W and two packages of 50 W with 10 W of memory each, in virtual time."""

    def __init__(self, directory: Path, **energy: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.clock = VirtualClock()
        self.nvml = SimulatedNvml(self.clock, idle_w=300.0, uuids=("GPU-a", "GPU-b"))
        self.nvml.set_power(100.0, index=1)
        for gpu in self.nvml.gpus:
            gpu.offer_health()
        self.root = directory / "powercap"
        self.tree = SimulatedRapl(
            self.clock,
            self.root,
            intel_zones([Waveform(50), Waveform(50.5)], dram=[Waveform(10), Waveform(10.5)]),
        )
        self.energy, self.directory = energy, directory
        self.unread: dict[str, str] = {}

    def run(
        self, at_s: float = AT_REST_S, then: Callable[[Host], object] = lambda _: None, **changes: Any
    ) -> Measurement:
        files = SensorFiles(self.directory / "calibration.json", self.directory / "sensors.json")
        gpus = self.energy.get("gpus", "auto")
        boards = NvmlMeter(self.nvml, gpus=gpus, processes=tuple, files=files, clock=self.clock)
        zones = RaplMeter(self.root, clock=self.clock)
        with self.tree:
            recorder = Recorder([boards, zones], clock=self.clock, directory=self.directory)
            recorder.start(threaded=False)
            script: list[tuple[float, Callable[[], object]]] = [
                (at_s, partial(then, self)),
                *((look_s, partial(recorder.dense, near)) for look_s, near in close_looks()),
            ]
            with (
                self.clock.every(0.005, self.tree.tick),
                self.clock.every(recorder.tick_s, recorder.poll),
            ):
                for moment_s, do in sorted(script, key=lambda one: one[0]):
                    self.clock.sleep_until(round(moment_s * S))
                    do()
                self.clock.sleep_until(65 * S)
            recorder.stop()
        seen = measured(recorder.trace(), PASSES, unread={**boards.unread, **zones.unread}, **changes)
        config = seen.config.model_dump() | {"energy": self.energy}
        return replace(seen, config=ExperimentConfig.model_validate(config))


def sick_zone(directory: Path, *, fails_in_s: float | None) -> ExperimentResult:
    def fail(host: Host) -> None:
        host.tree.failing = {"intel-rapl:1"}

    host = Host(directory)
    return metrics([host.run() if fails_in_s is None else host.run(fails_in_s, fail)])


def test_a_healthy_host_lacks_nothing(tmp_path: Path) -> None:
    result = metrics([Host(tmp_path).run()])
    assert (result.energy.boundary, result.energy.lacks) == ("gpu+cpu+dram", ())
    assert result.energy.total.value == pytest.approx(PASS_S * (300 + 100.5 + 20.5), rel=2e-3)


@pytest.mark.parametrize("zone", ["intel-rapl:1", "intel-rapl:1:1"])
@pytest.mark.parametrize("from_s", [0.0, IN_A_PASS_S])
def test_a_dead_zone_is_left_out_by_name(tmp_path: Path, zone: str, from_s: float) -> None:
    name, watts = ("cpu:1", 50.5) if zone == "intel-rapl:1" else ("dram:1", 10.5)

    def fail(host: Host) -> None:
        host.tree.failing = {zone}
        host.tree.tick()

    host = Host(tmp_path)
    if from_s:
        seen = host.run(from_s, fail)
    else:
        fail(host)
        seen = host.run()
    result = metrics([seen])
    (lack,) = result.energy.lacks
    assert (lack.domain, result.energy.boundary) == (name, f"gpu+cpu+dram without {name}")
    assert result.energy.total.value == pytest.approx(PASS_S * (421.0 - watts), rel=2e-3)
    assert result.energy.valid
    assert result.energy.method == "counter"
    assert codes(result) == {"domain_missing"}


def test_a_kind_that_is_gone_leaves_the_boundary(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.tree.failing = {"intel-rapl:0:1", "intel-rapl:1:1"}
    host.tree.tick()
    result = metrics([host.run()])
    assert result.energy.boundary == "gpu+cpu"
    assert {lack.domain for lack in result.energy.lacks} == {"dram:0", "dram:1"}


def lose(index: int) -> Callable[[Host], object]:
    return lambda host: setattr(host.nvml.gpus[index], "fails_with", Code.GPU_IS_LOST)


@pytest.mark.parametrize("from_s", [0.0, IN_A_PASS_S])
def test_of_all_gpus_a_lost_one_that_the_engine_does_not_use_is_left_out(
    tmp_path: Path, from_s: float
) -> None:
    host = Host(tmp_path, gpus="all")
    if from_s:
        seen = host.run(from_s, lose(1))
    else:
        lose(1)(host)
        seen = host.run()
    result = metrics([seen])
    (lack,) = result.energy.lacks
    assert lack.domain == ("gpu:GPU-b" if from_s else "gpu:unknown-1")
    assert "lost" in lack.reason
    assert result.energy.boundary == f"gpu+cpu+dram without {lack.domain}"
    assert result.energy.total.value == pytest.approx(PASS_S * 421.0, rel=2e-3)
    assert result.energy.valid


def test_the_gpu_that_does_the_work_is_never_left_out(tmp_path: Path) -> None:
    result = metrics([Host(tmp_path).run(IN_A_PASS_S, lose(0))])
    assert result.energy.total.value is None
    assert not result.energy.valid
    assert result.energy.lacks == ()


def test_a_lost_gpu_that_nobody_asked_for_is_no_lack(tmp_path: Path) -> None:
    host = Host(tmp_path)
    lose(1)(host)
    result = metrics([host.run()])
    assert (result.energy.lacks, result.energy.boundary) == ((), "gpu+cpu+dram")


def test_what_one_run_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    def fail(host: Host) -> None:
        host.tree.failing = {"intel-rapl:1"}

    whole = Host(tmp_path / "1").run()
    sick = replace(Host(tmp_path / "2").run(IN_A_PASS_S, fail), index=2)
    result = metrics([whole, sick])
    assert result.energy.boundary == "gpu+cpu+dram without cpu:1"
    assert result.energy.total.value == pytest.approx(2 * PASS_S * (421.0 - 50.5), rel=2e-3)


def test_a_run_of_the_cpu_alone_whose_only_package_dies_falls_to_no_model(tmp_path: Path) -> None:
    def fail(host: Host) -> None:
        host.tree.failing = {zone.directory for zone in host.tree.zones}

    result = metrics([Host(tmp_path).run(IN_A_PASS_S, fail, facts=SessionFacts("cpu", {}, {}))])
    assert result.energy.total.value is None
    assert result.energy.method != "modelled"
