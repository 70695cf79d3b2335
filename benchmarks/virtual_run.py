"""Whole runs in virtual time on a simulated board: llem's recorder, harness, repeats and analysis, and no
second of waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from llenergymeasure.analysis.metrics import experiment_result
from llenergymeasure.analysis.run_energy import counted_domains, idle_watts, pass_costs
from llenergymeasure.backends import Backend
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy import Meter
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.harness import Observations, Phase, Rig, conduct
from llenergymeasure.measure.meters import FollowedDevice
from llenergymeasure.measure.protocol import BlockDone, EventLog, encode_message
from llenergymeasure.measure.repeats import repeat
from llenergymeasure.measure.replay import write_measurement
from llenergymeasure.measure.runner import Job
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.records import (
    Block,
    Clock,
    Environment,
    Measurement,
    Overhead,
    SessionFacts,
    Start,
    Trace,
    Window,
)
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.store import write_requests
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml

NOWHERE = Environment("", "", "", "", "", None, 1, 1, None, None, None, None, None, (), {})


@dataclass
class Stage:
    """Where a virtual run takes place: a clock, a board, what the board does in each phase, and what else is
    read beside it.
    """

    clock: VirtualClock
    nvml: SimulatedNvml
    enter: Callable[[Phase], None]
    meters: tuple[Meter, ...] = ()

    @classmethod
    def followed(cls, config: ExperimentConfig, number: int) -> Stage:
        clock = VirtualClock()
        device = FollowedDevice(config, clock=clock, run=number)
        return cls(clock, device.nvml, device.enter)


@dataclass
class VirtualRuns:
    """Makes runs in virtual time. `stage` gives each its clock and board, by the configuration and the run's
    number; `load` the engine on that clock, the simulated one where it is None. What was seen is kept in the
    order of the runs.
    """

    stage: Callable[[ExperimentConfig, int], Stage] = Stage.followed
    load: Callable[[Clock], Backend] | None = None
    tick_s: float | None = None
    stages: list[Stage] = field(default_factory=list)
    phases: list[list[Phase]] = field(default_factory=list)
    seen: list[Observations] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def __call__(self, config: ExperimentConfig, job: Job) -> Measurement:
        turn, directory, tell = job.turn, job.directory, job.tell
        stage = self.stage(config, turn.number)
        self.stages.append(stage)
        self.phases.append([])
        clock = stage.clock
        engine = SimulatedBackend(clock, run=turn.number) if self.load is None else self.load(clock)
        recorder = Recorder(
            [NvmlMeter(stage.nvml, clock=clock), *stage.meters],
            clock=clock,
            directory=directory,
            boundary=config.energy.boundary,
        )

        def enter(phase: Phase) -> None:
            self.phases[-1].append(phase)
            stage.enter(phase)
            tell.enter(phase)

        def costs(facts: SessionFacts, blocks: Sequence[Block]) -> list[float]:
            trace = recorder.trace()
            return pass_costs(trace, counted_domains(trace.domains, config, facts), blocks)

        def watts(windows: Sequence[Window]) -> list[float | None]:
            return [idle_watts(recorder.trace(), window) for window in windows]

        with Bench(config, load=lambda _: engine, clock=clock, position=Position()) as bench:
            rig = Rig(
                worker=bench,
                recorder=recorder,
                clock=clock,
                enter=enter,
                mark=lambda: None,
                progress=tell,
                warmed=lambda warm_up: tell.measured(walk_s=warm_up.walk_s),
                keep=lambda _: None,
                costs=costs,
                watts=watts,
            )
            recorder.start(threaded=False)
            with clock.every(self.tick_s or recorder.tick_s, recorder.poll):
                seen = conduct(config, rig, turn)
            recorder.stop()
        self.seen.append(seen)
        found = replace(
            _measurement(config, job.experiment, turn.number, seen, recorder.trace()), origins=job.origins
        )
        write_requests(directory / "requests.parquet", seen.blocks)
        log = EventLog(directory / EVENTS_NAME)
        for at, block in enumerate(seen.blocks, 1):
            log.write("worker", encode_message(BlockDone(at, block.kind, block.passes)))
        log.close()
        write_measurement(directory, found)
        self.measurements.append(found)
        return found


def virtual_experiment(
    config: ExperimentConfig, runs: VirtualRuns | None = None, *, strict: bool = False
) -> ExperimentResult:
    """The result of all repeats, as `run_experiment` gives it."""
    with repeat(
        config,
        origins={},
        tell=_silent,
        remark=lambda _: None,
        strict=strict,
        run=runs or VirtualRuns(),
    ) as finished:
        return experiment_result(finished.energies, failed=finished.failed)


def _silent(description: str, **_: object) -> None:
    pass


def _measurement(
    config: ExperimentConfig, experiment: str, number: int, seen: Observations, trace: Trace
) -> Measurement:
    return Measurement(
        experiment_id=experiment,
        index=number,
        config=config,
        origins={},
        started=Start("", 0, None),
        environment=NOWHERE,
        facts=seen.facts,
        architecture=None,
        idle=seen.idle,
        load=seen.ready.load,
        warm_up=seen.warm_up,
        blocks=seen.blocks,
        trace=trace,
        overhead=Overhead(0.0, 0, 0.0),
        simulated=True,
        workload_hash=seen.ready.workload_hash,
        cut_prompts=seen.ready.cut,
        dataset=seen.ready.dataset,
    )
