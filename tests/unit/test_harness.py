"""The method on virtual time: a bench instead of a child, a device whose true energy is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llenergymeasure.analysis.joules import (
    costs_per_output_token,
    counted_domains,
    idle_watts,
    pass_joules,
)
from llenergymeasure.analysis.statistics import stein_passes
from llenergymeasure.backends import Backend
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.integrate import energy_of
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.harness import Observations, Phase, Rig, conduct
from llenergymeasure.measure.simulate import FollowedDevice
from llenergymeasure.records import Clock, Pass, SessionFacts, Trace
from llenergymeasure.simulation.clock import VirtualClock


def config(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 32,
            **changes,
        }
    )


class Run:
    """One run on virtual time, and all that can be known of it."""

    def __init__(
        self,
        asked: ExperimentConfig,
        directory: Path,
        *,
        backend: Callable[[Clock], Backend] = SimulatedBackend,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.clock = VirtualClock()
        self.device = FollowedDevice(asked, clock=self.clock)
        self.phases: list[Phase] = []
        self.told: list[str] = []
        self.benches: list[Bench] = []

        def worker() -> Bench:
            self.benches.append(
                Bench(
                    asked,
                    load=lambda _: backend(self.clock),
                    clock=self.clock,
                    position=Position(),
                )
            )
            return self.benches[-1]

        recorder = Recorder(
            [NvmlMeter(self.device.nvml, clock=self.clock)], clock=self.clock, directory=directory
        )

        def joules(facts: SessionFacts, passes: Sequence[Pass]) -> float | None:
            trace = recorder.trace()
            each = pass_joules(trace, counted_domains(trace.domains, asked, facts), passes)
            return None if each is None else sum(each)

        def costs(facts: SessionFacts, passes: Sequence[Pass]) -> Sequence[float]:
            trace = recorder.trace()
            self.costs = costs_per_output_token(trace, counted_domains(trace.domains, asked, facts), passes)
            return self.costs

        rig = Rig(
            worker=worker,
            recorder=recorder,
            clock=self.clock,
            enter=self.enter,
            progress=self.tell,
            costs=costs,
            energy_j=joules,
            watts=lambda windows: [idle_watts(recorder.trace(), window) for window in windows],
        )
        recorder.start(threaded=False)
        with self.clock.every(recorder.tick_s, recorder.poll):
            self.seen: Observations = conduct(asked, rig)
        recorder.stop()
        self.trace: Trace = recorder.trace()

    def enter(self, phase: Phase) -> None:
        self.phases.append(phase)
        self.device.enter(phase)

    def tell(self, description: str, *, done: float | None = None, total: float | None = None) -> None:
        self.told.append(description)


def test_a_run_goes_from_the_idle_machine_to_the_idle_machine(tmp_path: Path) -> None:
    run = Run(config(), tmp_path)
    first_of_each = list(dict.fromkeys(run.phases))
    assert first_of_each == ["bare", "load", "loaded", "warm_up", "between", "pass", "after"]
    idle = run.seen.idle
    assert idle.bare is not None
    assert idle.loaded is not None
    assert idle.after is not None
    ends = [
        idle.bare.end_ns,
        run.seen.ready.load.start_ns,
        run.seen.ready.load.end_ns,
        idle.loaded.start_ns,
        run.seen.warm_up.window.start_ns,
        run.seen.warm_up.window.end_ns,
        run.seen.passes[0].window.start_ns,
        run.seen.passes[-1].window.end_ns,
        idle.after.start_ns,
    ]
    assert ends == sorted(ends)


def test_the_joules_of_all_passes_are_those_of_the_device(tmp_path: Path) -> None:
    run = Run(config(), tmp_path)
    windows = [one.window for one in run.seen.passes]
    true_j = sum(run.device.nvml.true_energy_j(window) for window in windows)
    read = energy_of(run.trace, windows, "gpu:GPU-simulated-0").energy
    assert read.value == pytest.approx(true_j, rel=2e-3)


def test_a_pass_lasts_as_long_as_asked_and_replays_the_same_work(tmp_path: Path) -> None:
    run = Run(config(passes={"seconds": 7.0}), tmp_path)
    for one in run.seen.passes:
        assert 7.0 <= one.window.duration_s < 7.5
        assert one.generation.output_tokens == one.walks * 4 * 32


def test_a_quiet_device_needs_no_more_than_the_first_stage(tmp_path: Path) -> None:
    run = Run(config(simulated={"scatter": 0.0}), tmp_path)
    assert len(run.seen.passes) == 5


def test_a_restless_device_gets_as_many_passes_as_the_first_stage_asks_for(tmp_path: Path) -> None:
    run = Run(config(simulated={"scatter": 0.2}, passes={"target": 0.08}), tmp_path)
    wanted = stein_passes(run.costs, target=0.08, minimum=5)
    assert 5 < wanted < 24
    assert len(run.seen.passes) == wanted


def test_each_budget_ends_the_passes(tmp_path: Path) -> None:
    restless = {"scatter": 0.2}
    few = Run(config(simulated=restless, passes={"budget": {"passes": 7, "seconds": 1e4}}), tmp_path / "a")
    short = Run(config(simulated=restless, passes={"budget": {"seconds": 12.0}}), tmp_path / "b")
    cheap = Run(config(simulated=restless, passes={"budget": {"joules": 2500.0}}), tmp_path / "c")
    assert len(few.seen.passes) == 7
    assert len(short.seen.passes) == 3
    assert len(cheap.seen.passes) == 2


def test_idle_windows_may_be_left_out(tmp_path: Path) -> None:
    run = Run(config(baseline={"seconds": 0}), tmp_path)
    assert run.seen.idle.bare is None
    assert run.seen.idle.after is None


def test_idle_after_work_begins_when_a_running_mean_has_forgotten_it(tmp_path: Path) -> None:
    seen = Run(config(), tmp_path).seen
    assert seen.idle.loaded is not None
    assert seen.idle.after is not None
    assert seen.idle.loaded.start_ns - seen.ready.load.end_ns >= 1_000_000_000
    assert seen.idle.after.start_ns - seen.passes[-1].window.end_ns >= 1_000_000_000


def test_warm_up_that_never_settles_ends_at_its_cap(tmp_path: Path) -> None:
    asked = config(simulated={"scatter": 0.5}, warmup={"max_seconds": 3.0, "variation": 0.001})
    run = Run(asked, tmp_path)
    assert not run.seen.warm_up.steady
    assert 3.0 <= run.seen.warm_up.window.duration_s < 3.5


def test_steady_warm_up_stops_as_soon_as_times_agree(tmp_path: Path) -> None:
    run = Run(config(simulated={"scatter": 0.0}), tmp_path)
    assert run.seen.warm_up.steady
    assert len(run.seen.warm_up.batch_s) == 5


def test_progress_names_the_phases(tmp_path: Path) -> None:
    told = Run(config(simulated={"scatter": 0.0}), tmp_path).told
    assert told[:4] == ["idle, bare", "loading", "idle, loaded", "warming up"]
    assert told[4:6] == ["pass 1 of 5", "pass 2 of 5"]


def test_cycles_are_fresh_processes_and_the_unit_that_is_repeated(tmp_path: Path) -> None:
    run = Run(config(cycles=4, passes={"minimum": 2}, simulated={"scatter": 0.0}), tmp_path)
    assert len(run.benches) == 4
    assert [one.cycle for one in run.seen.passes] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(run.costs) == 4
    assert run.phases.count("load") == 4
    assert run.seen.idle.after is not None
    assert run.seen.idle.after.start_ns > run.seen.passes[-1].window.end_ns


def test_restless_cycles_are_repeated_until_the_target_is_met(tmp_path: Path) -> None:
    asked = config(cycles=3, passes={"minimum": 2, "target": 0.1}, simulated={"scatter": 0.1})
    run = Run(asked, tmp_path)
    assert len(run.benches) == stein_passes(run.costs[:3], target=0.1, minimum=3) > 3


def test_a_budget_ends_cycles_too(tmp_path: Path) -> None:
    asked = config(cycles=5, passes={"minimum": 2, "budget": {"passes": 5}}, simulated={"scatter": 0.0})
    assert [one.cycle for one in Run(asked, tmp_path).seen.passes] == [0, 0, 1, 1, 2]


def test_cooling_ends_when_power_no_longer_falls(tmp_path: Path) -> None:
    run = Run(config(baseline={"cooling_seconds": 60.0}), tmp_path)
    assert run.phases[0] == "cooling"
    assert run.seen.idle.bare is not None
    assert run.seen.idle.bare.start_ns / 1e9 < 12
