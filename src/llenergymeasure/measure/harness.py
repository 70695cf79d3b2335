"""The method on one page: what happens in a run, in which order, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from llenergymeasure.analysis.statistics import stein_passes
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.protocol import Ready
from llenergymeasure.records import Clock, Idle, Pass, Progress, SessionFacts, WarmUp, Window

# Long enough for every meter to have been read once more, and every counter to have stepped.
SETTLE_S = 0.5
# A power field may be a running mean over 1 s (arXiv 2312.02741), which shows the work before for so long.
MEMORY_S = 1.0

# A look at the power while cooling, and how little it falls from one to the next when it is over.
COOLING_LOOK_S = 3.0
COOLED = 0.01

Phase: TypeAlias = Literal["cooling", "bare", "load", "loaded", "warm_up", "pass", "between", "after"]


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
    """What a run is done with. `worker` gives a fresh one each time; `enter` is told each phase as it begins;
    `costs` gives what each pass or cycle so far cost per output token, in joules or, where no energy can be
    known, in seconds; `energy_j` their sum; `watts` the power of each of several idle windows.
    """

    worker: Callable[[], Worker]
    recorder: Watcher
    clock: Clock
    enter: Callable[[Phase], None]
    progress: Progress
    costs: Callable[[SessionFacts, Sequence[Pass]], Sequence[float]]
    energy_j: Callable[[SessionFacts, Sequence[Pass]], float | None]
    watts: Callable[[Sequence[Window]], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Observations:
    """`ready` and `idle.loaded` are those of the first cycle, `facts` and `idle.after` those of the last."""

    ready: Ready
    idle: Idle
    warm_up: WarmUp
    passes: tuple[Pass, ...]
    facts: SessionFacts


def conduct(config: ExperimentConfig, rig: Rig) -> Observations:
    """One run, from the idle machine to the idle machine: one cycle, or several in a fresh process each.

    Cycles are the unit that is repeated where there are several, else passes.
    """
    _cool(config, rig)
    bare = _idle(config, rig, "bare")
    cycles: list[Observations] = []
    wanted = config.cycles
    while len(cycles) < wanted and not (
        cycles and _spent(config, rig, _all_passes(cycles), facts=cycles[-1].facts)
    ):
        if cycles:
            _cool(config, rig)
        cycles.append(_cycle(config, rig, number=len(cycles), before=_all_passes(cycles)))
        if len(cycles) == config.cycles >= 3:
            costs = rig.costs(cycles[-1].facts, _all_passes(cycles))
            wanted = stein_passes(costs, target=config.passes.target, minimum=wanted)
    rig.clock.sleep(SETTLE_S)
    first, last = cycles[0], cycles[-1]
    return Observations(
        ready=first.ready,
        idle=Idle(bare, first.idle.loaded, last.idle.after),
        warm_up=replace(first.warm_up, steady=all(cycle.warm_up.steady for cycle in cycles)),
        passes=_all_passes(cycles),
        facts=last.facts,
    )


def _cycle(config: ExperimentConfig, rig: Rig, *, number: int, before: Sequence[Pass]) -> Observations:
    """A fresh process: load, idle, warm-up, passes, idle."""
    _begin(rig, "load", "loading" if config.cycles == 1 else f"cycle {number + 1}: loading")
    worker = rig.worker()
    ready = worker.open()
    loaded = _idle(config, rig, "loaded")

    _begin(rig, "warm_up", "warming up", total=config.warmup.max_seconds)
    warm_up = worker.warm_up()

    rig.recorder.dense(True)
    passes = _passes(config, rig, worker, facts=ready.facts, before=before)
    rig.recorder.dense(False)

    after = _idle(config, rig, "after")
    _begin(rig, "after", "closing")
    facts = worker.close()
    numbered = tuple(replace(one, cycle=number) for one in passes)
    return Observations(ready, Idle(None, loaded, after), warm_up, numbered, facts)


def _passes(
    config: ExperimentConfig, rig: Rig, worker: Worker, *, facts: SessionFacts, before: Sequence[Pass]
) -> list[Pass]:
    """The first stage, and what its scatter asks for beyond it; in one of several cycles the first alone.

    The first pass is always allowed: without it there is no result. The budget counts those `before` too.
    """
    passes: list[Pass] = []
    wanted = config.passes.minimum
    while len(passes) < wanted and not (passes and _spent(config, rig, [*before, *passes], facts=facts)):
        number = len(passes) + 1
        _begin(rig, "between", f"pass {number} of {wanted}", total=config.passes.seconds)
        passes.append(worker.run_pass(number, lambda: rig.enter("pass")))
        rig.enter("between")
        rig.clock.sleep(SETTLE_S)
        if len(passes) == config.passes.minimum >= 2 and config.cycles == 1:
            wanted = stein_passes(rig.costs(facts, passes), target=config.passes.target, minimum=wanted)
    return passes


def _cool(config: ExperimentConfig, rig: Rig) -> None:
    """Wait until idle power falls no further from one look to the next, for `cooling_seconds` at the most."""
    start_ns = rig.clock.monotonic_ns()
    if config.baseline.cooling_seconds:
        _begin(rig, "cooling", "cooling", total=config.baseline.cooling_seconds)
    windows: list[Window] = []
    while (rig.clock.monotonic_ns() - start_ns) / 1e9 < config.baseline.cooling_seconds:
        look_ns = rig.clock.monotonic_ns()
        rig.clock.sleep(COOLING_LOOK_S)
        windows.append(Window(look_ns, rig.clock.monotonic_ns()))
        rig.clock.sleep(SETTLE_S)
        looks = [watts for watts in rig.watts(windows[-2:]) if watts is not None]
        if len(windows) > 1 and (len(looks) < 2 or looks[1] >= looks[0] * (1 - COOLED)):
            return


def _all_passes(cycles: Sequence[Observations]) -> tuple[Pass, ...]:
    return tuple(one for cycle in cycles for one in cycle.passes)


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


def _spent(config: ExperimentConfig, rig: Rig, passes: Sequence[Pass], *, facts: SessionFacts) -> bool:
    """Whether a budget is used up."""
    budget = config.passes.budget
    if len(passes) >= budget.passes or sum(done.window.duration_s for done in passes) >= budget.seconds:
        return True
    if budget.joules is None:
        return False
    spent_j = rig.energy_j(facts, passes)
    return spent_j is not None and spent_j >= budget.joules
