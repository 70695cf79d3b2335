"""One whole run in virtual time, with cycles as `rigorous` has them, and whether two of them differ."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from llenergymeasure.analysis.compare import ratio
from llenergymeasure.analysis.joules import counted_domains, energy, idle_watts
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.harness import Observations, Rig, conduct
from llenergymeasure.measure.simulate import FollowedDevice
from llenergymeasure.records import Environment, Estimate, Measurement, Overhead, Start, Trace
from llenergymeasure.simulation.clock import VirtualClock

ACTIVE_W = 400.0


def config(active_w: float, seed: int) -> ExperimentConfig:
    """`rigorous` with short passes: the time between them is what virtual time spends most on."""
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 64,
            "cycles": 5,
            "passes": {"seconds": 1.5, "minimum": 3, "target": 0.5},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 1.0},
            "simulated": {"scatter": 0.015, "batch_size": 4, "active_w": active_w},
        }
    )


def cost(active_w: float, seed: int) -> Estimate:
    """Joules per output token of one whole run."""
    asked, clock = config(active_w, seed), VirtualClock()
    device = FollowedDevice(asked, clock=clock)
    with tempfile.TemporaryDirectory() as directory:
        meter = NvmlMeter(device.nvml, clock=clock)
        recorder = Recorder([meter], clock=clock, directory=Path(directory))
        rig = Rig(
            worker=lambda: Bench(
                asked, load=lambda _: SimulatedBackend(clock), clock=clock, position=Position()
            ),
            recorder=recorder,
            clock=clock,
            enter=device.enter,
            progress=lambda description, done=None, total=None: None,  # noqa: ARG005  the Progress protocol
            costs=lambda facts, passes: [1.0] * len({one.cycle for one in passes}),  # noqa: ARG005  five cycles
            energy_j=lambda facts, passes: None,  # noqa: ARG005  no budget of joules
            watts=lambda windows: [idle_watts(recorder.trace(), window) for window in windows],
        )
        recorder.start(threaded=False)
        with clock.every(0.01, recorder.poll):
            seen = conduct(asked, rig)
        recorder.stop()
        trace = recorder.trace()
    return energy(_measurement(asked, seen, trace)).per_output_token


def _measurement(asked: ExperimentConfig, seen: Observations, trace: Trace) -> Measurement:
    nowhere = Environment("", "", "", "", "", None, 1, 1, None, None, None, None, None, (), {})
    assert counted_domains(trace.domains, asked, seen.facts)
    return Measurement(
        experiment_id="",
        config=asked,
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


def called_different(seed: int, *, change: float) -> bool:
    seeds = random.Random(seed)
    a = cost(ACTIVE_W, seeds.randrange(2**32))
    b = cost(ACTIVE_W * (1 + change), seeds.randrange(2**32))
    found = ratio(a, b, cancels=True)
    assert found.low is not None
    assert found.high is not None
    return not found.low <= 1 <= found.high
