"""The method on one page: what happens in a run, in which order, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from llenergymeasure.analysis.statistics import stein_passes
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.protocol import Ready
from llenergymeasure.records import Clock, Idle, Pass, Progress, SessionFacts, WarmUp, Window

# Long enough for every meter to have been read once more, and every counter to have stepped.
SETTLE_S = 0.5
# A power field may be a running mean over 1 s (arXiv 2312.02741), which shows the work before for so long.
MEMORY_S = 1.0

Phase: TypeAlias = Literal["bare", "load", "loaded", "warm_up", "pass", "between", "after"]


class Worker(Protocol):
    """What runs the model: a child process, or a bench on virtual time."""

    def open(self) -> Ready: ...

    def warm_up(self) -> WarmUp: ...

    def run_pass(self, number: int, go: Callable[[], None]) -> Pass: ...

    def close(self) -> SessionFacts: ...


class Watcher(Protocol):
    """What the harness wants of the recorder: to look closely for a while."""

    def dense(self, wanted: bool, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Rig:
    """What a run is done with. `enter` is told each phase as it begins; `costs` gives what each pass so far
    cost per output token, in joules or, where no energy can be known, in seconds; `energy_j` their sum.
    """

    worker: Callable[[], Worker]
    recorder: Watcher
    clock: Clock
    enter: Callable[[Phase], None]
    progress: Progress
    costs: Callable[[SessionFacts, Sequence[Pass]], Sequence[float]]
    energy_j: Callable[[SessionFacts, Sequence[Pass]], float | None]


@dataclass(frozen=True, slots=True)
class Observations:
    ready: Ready
    idle: Idle
    warm_up: WarmUp
    passes: tuple[Pass, ...]
    facts: SessionFacts


def conduct(config: ExperimentConfig, rig: Rig) -> Observations:
    """One run, from the idle machine to the idle machine."""
    bare = _idle(config, rig, "bare")

    _begin(rig, "load", "loading")
    worker = rig.worker()
    ready = worker.open()
    loaded = _idle(config, rig, "loaded")

    _begin(rig, "warm_up", "warming up", total=config.warmup.max_seconds)
    warm_up = worker.warm_up()

    passes: list[Pass] = []
    wanted = config.passes.minimum
    rig.recorder.dense(True)
    while len(passes) < wanted and not _spent(config, rig, ready.facts, passes):
        number = len(passes) + 1
        _begin(rig, "between", f"pass {number} of {wanted}", total=config.passes.seconds)
        passes.append(worker.run_pass(number, lambda: rig.enter("pass")))
        rig.enter("between")
        if len(passes) == config.passes.minimum >= 2:
            wanted = stein_passes(rig.costs(ready.facts, passes), target=config.passes.target, minimum=wanted)
    rig.recorder.dense(False)

    after = _idle(config, rig, "after")
    _begin(rig, "after", "closing")
    facts = worker.close()
    rig.clock.sleep(SETTLE_S)
    return Observations(ready, Idle(bare, loaded, after), warm_up, tuple(passes), facts)


def _begin(rig: Rig, phase: Phase, description: str, *, total: float | None = None) -> None:
    rig.enter(phase)
    rig.progress(description, total=total)


def _idle(config: ExperimentConfig, rig: Rig, phase: Phase) -> Window | None:
    """Leave everything alone for a while; the recorder watches. After work, sensors may forget it first."""
    seconds = config.baseline.seconds
    if not seconds:
        return None
    rest_s = 0.0 if phase == "bare" else MEMORY_S
    _begin(rig, phase, f"idle, {phase}", total=seconds + rest_s)
    rig.clock.sleep(rest_s)
    rig.recorder.dense(True)
    start_ns = rig.clock.monotonic_ns()
    rig.clock.sleep(seconds)
    end_ns = rig.clock.monotonic_ns()
    rig.recorder.dense(False)
    return Window(start_ns, end_ns)


def _spent(config: ExperimentConfig, rig: Rig, facts: SessionFacts, passes: Sequence[Pass]) -> bool:
    """Whether a budget is used up. The first pass is always allowed: without it there is no result."""
    budget = config.passes.budget
    if not passes:
        return False
    if len(passes) >= budget.passes or sum(done.window.duration_s for done in passes) >= budget.seconds:
        return True
    return budget.joules is not None and (rig.energy_j(facts, passes) or 0.0) >= budget.joules
