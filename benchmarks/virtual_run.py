"""One whole run in virtual time on a simulated board: llem's recorder, harness and analysis, and no second of
waiting.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from llenergymeasure.analysis.joules import energy, idle_watts
from llenergymeasure.backends import Backend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.harness import Observations, Phase, Rig, conduct
from llenergymeasure.records import Environment, Measurement, Overhead, Start, Trace
from llenergymeasure.results.models import Energy
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml


def virtual_run(
    config: ExperimentConfig,
    clock: VirtualClock,
    nvml: SimulatedNvml,
    *,
    load: Callable[[], Backend],
    enter: Callable[[Phase], None],
    tick_s: float | None = None,
) -> Energy:
    """The energy part of the result, with as many passes or cycles as `config` asks for at first.

    `enter` is told of every phase; the board is polled every `tick_s`, or as often as the recorder would.
    """
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=Path(directory))
        rig = Rig(
            worker=lambda: Bench(config, load=lambda _: load(), clock=clock, position=Position()),
            recorder=recorder,
            clock=clock,
            enter=enter,
            progress=lambda description, done=None, total=None: None,  # noqa: ARG005  the Progress protocol
            # Costs without scatter ask for no more of them.
            costs=lambda facts, done: [1.0] * (len(done) if config.cycles == 1 else config.cycles),  # noqa: ARG005
            energy_j=lambda facts, done: None,  # noqa: ARG005  no budget of joules
            watts=lambda windows: [idle_watts(recorder.trace(), window) for window in windows],
        )
        recorder.start(threaded=False)
        with clock.every(tick_s or recorder.tick_s, recorder.poll):
            seen = conduct(config, rig)
        recorder.stop()
        return energy(_measurement(config, seen, recorder.trace()))


def _measurement(config: ExperimentConfig, seen: Observations, trace: Trace) -> Measurement:
    nowhere = Environment("", "", "", "", "", None, 1, 1, None, None, None, None, None, (), {})
    return Measurement(
        experiment_id="",
        config=config,
        origins={},
        started=Start("", 0, None),
        environment=nowhere,
        facts=seen.facts,
        architecture=None,
        idle=seen.idle,
        load=seen.ready.load,
        warm_up=seen.warm_up,
        passes=seen.passes,
        trace=trace,
        overhead=Overhead(0.0, 0, 0.0),
        simulated=True,
    )
