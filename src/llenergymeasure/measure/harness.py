"""The method on one page: what happens in a run, in which order, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from llenergymeasure.analysis.statistics import stein_count
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.budget import Turn, expected_pass_s, passes_that_fit
from llenergymeasure.measure.protocol import Ready, WarmUpBatch
from llenergymeasure.records import (
    Block,
    BlockKind,
    Clock,
    Idle,
    Pass,
    Progress,
    SessionFacts,
    WarmUp,
    Window,
)

# Long enough for every meter to have been read once more, and every counter to have stepped.
SETTLE_S = 0.5
# A power field may be a running mean over 1 s (arXiv 2312.02741), which shows the work before for so long.
MEMORY_S = 1.0

# A look at the power while cooling, and how little it falls from one to the next when it is over.
COOLING_LOOK_S = 3.0
COOLED = 0.01
# How long the recorder looks closely at both ends of an idle window.
EDGE_S = 0.5
# How often a silence asks whether it is long enough.
LISTEN_S = 0.01

Phase: TypeAlias = Literal[
    "cooling", "bare", "load", "rest", "loaded", "warm_up", "silence", "full", "prefill", "after", "closing"
]


class Worker(Protocol):
    """What runs the model: a child process, or a bench on virtual time."""

    def open(self) -> Ready: ...

    def warm_up(self, began: Callable[[WarmUpBatch], None] | None = None) -> WarmUp: ...

    def run_block(
        self,
        kind: BlockKind,
        passes: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]: ...

    def close(self) -> SessionFacts: ...


class Watcher(Protocol):
    """What the harness wants of the recorder.

    `quiet_s` is how long a silence is at the least, and for how long before that a meter may still show what
    was before it; both are 0 where no silence is needed. `quiet_enough` says whether one that began at
    `since_ns` may end, `dense` that one begins or ends, `edge` that a pass begins, and `look` that all should
    be read once now.
    """

    @property
    def quiet_s(self) -> tuple[float, float]: ...

    def quiet_enough(self, since_ns: int) -> bool: ...

    def dense(self, wanted: bool, /) -> None: ...

    def edge(self) -> None: ...

    def look(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Rig:
    """What a run is done with. `enter` hears of each phase as it begins, `mark` of the beginning, the middle
    and the end of each silence, `warmed` of what the warm-up showed, `keep` after each block of all that was
    seen so far; `costs` gives what each full pass so far
    cost per output token, in joules or, where no energy can be known, in seconds; `watts` the power of each
    of several idle windows.
    """

    worker: Worker
    recorder: Watcher
    clock: Clock
    enter: Callable[[Phase], None]
    mark: Callable[[], None]
    progress: Progress
    warmed: Callable[[WarmUp], None]
    keep: Callable[[Observations], None]
    costs: Callable[[SessionFacts, Sequence[Block]], Sequence[float]]
    watts: Callable[[Sequence[Window]], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Observations:
    ready: Ready
    idle: Idle
    warm_up: WarmUp
    blocks: tuple[Block, ...]
    facts: SessionFacts


def conduct(config: ExperimentConfig, rig: Rig, turn: Turn) -> Observations:
    """One run, from the idle machine to the idle machine."""
    _cool(config, rig)
    bare = _idle(config, rig, "bare")
    _begin(rig, "load", "loading")
    ready = rig.worker.open()
    loaded = _idle(config, rig, "loaded")
    warm_up = _warm_up(config, rig)
    rig.warmed(warm_up)
    turn.forewarn(config, warm_up)
    blocks: tuple[Block, ...] = ()
    for block in _blocks(config, rig, turn, warm_up=warm_up, facts=ready.facts):
        blocks += (block,)
        rig.keep(Observations(ready, Idle(bare, loaded), warm_up, blocks, ready.facts))
    after = _idle(config, rig, "after")
    _begin(rig, "closing", "closing")
    facts = rig.worker.close()
    rig.clock.sleep(SETTLE_S)
    return Observations(ready, Idle(bare, loaded, after), warm_up, blocks, facts)


def _warm_up(config: ExperimentConfig, rig: Rig) -> WarmUp:
    cap_s = config.warmup.max_seconds
    _begin(rig, "warm_up", "warming up", total=cap_s)
    start_ns = rig.clock.monotonic_ns()

    def began(batch: WarmUpBatch) -> None:
        last = "" if batch.last_s is None else f", last took {batch.last_s:.2g} s"
        done_s = (rig.clock.monotonic_ns() - start_ns) / 1e9
        note = batch.note or f"batch {batch.number}{last}"
        rig.progress("warming up", done=done_s, total=cap_s, note=note)

    return rig.worker.warm_up(began)


def _blocks(
    config: ExperimentConfig, rig: Rig, turn: Turn, *, warm_up: WarmUp, facts: SessionFacts
) -> Iterator[Block]:
    """The full block and the prefill block, in turns of the runs; for a target within this one process, a
    second full block with what the scatter of the first asks for (Stein's two stages).
    """
    count = passes_that_fit(config, warm_up, turn)
    if config.is_stream:
        yield _windows(config, rig, count)
        return
    wants_prefill = config.why_no_prefill is None
    if wants_prefill and turn.number % 2 == 0:
        yield _block(config, rig, "prefill", config.passes.prefill, warm_up=warm_up)
    full = _block(config, rig, "full", count, warm_up=warm_up)
    yield full
    if config.passes.target is not None and count == config.passes.count >= 2:
        wanted = stein_count(rig.costs(facts, [full]), target=config.passes.target, minimum=count)
        spent = turn.less(passes=count, seconds=full.window.duration_s)
        more = min(wanted - count, passes_that_fit(config, warm_up, spent, most=wanted - count))
        if more > 0 and spent.seconds > 0 and spent.passes > 0:
            yield _block(config, rig, "full", more, warm_up=warm_up)
    if wants_prefill and turn.number % 2 == 1:
        yield _block(config, rig, "prefill", config.passes.prefill, warm_up=warm_up)


def _block(config: ExperimentConfig, rig: Rig, kind: BlockKind, passes: int, *, warm_up: WarmUp) -> Block:
    """Passes without a pause, between two silences."""
    silences: list[Window | None] = []
    what = f"{passes} pass{'es' if passes > 1 else ''}{' of prefill' if kind == 'prefill' else ''}"
    rig.enter("silence")

    def before() -> None:
        silences.append(_silence(rig))
        rig.enter(kind)
        total_s = round(passes * expected_pass_s(config, warm_up, kind), 1)
        rig.progress(what, total=total_s, passes=passes)
        rig.recorder.edge()

    def after() -> None:
        rig.enter("silence")
        silences.append(_silence(rig))

    done = rig.worker.run_block(kind, passes, before=before, edge=rig.recorder.edge, after=after)
    return Block(kind, silences[0], done, silences[1])


def _windows(config: ExperimentConfig, rig: Rig, count: int) -> Block:
    """Passes that are cut from a running load, which drains once the last is over."""
    length_s = config.passes.seconds
    rig.enter("full")

    def before() -> None:
        rig.progress(f"{count} window{'s'[: count != 1]} of the load", total=round(count * length_s, 1))
        rig.recorder.edge()

    def after() -> None:
        rig.enter("rest")
        rig.progress("waiting for the last answers")

    done = rig.worker.run_block("full", count, before=before, edge=rig.recorder.edge, after=after)
    return Block("full", None, done, None)


def _silence(rig: Rig) -> Window | None:
    """Wait until every meter has seen enough of the quiet worker, once it no longer shows what was before;
    None where no meter needs that.
    """
    least_s, lag_s = rig.recorder.quiet_s
    start_ns = rig.clock.monotonic_ns()
    if not least_s:
        rig.recorder.look()
        return None
    rig.recorder.dense(True)
    rig.mark()
    rig.clock.sleep(lag_s + least_s / 2)
    rig.mark()
    while not rig.recorder.quiet_enough(start_ns + round(lag_s * 1e9)):
        rig.clock.sleep(LISTEN_S)
    rig.mark()
    rig.recorder.dense(False)
    return Window(start_ns, rig.clock.monotonic_ns())


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


def _begin(rig: Rig, phase: Phase, description: str, *, total: float | None = None) -> None:
    rig.enter(phase)
    rig.progress(description, total=total)


def _idle(config: ExperimentConfig, rig: Rig, phase: Literal["bare", "loaded", "after"]) -> Window | None:
    """Leave everything alone for a while; the recorder watches. After work, sensors may forget it first."""
    seconds = config.baseline.seconds
    if not seconds:
        return None
    rest_s = 0.0 if phase == "bare" else MEMORY_S
    if rest_s:
        rig.enter("rest")
        rig.clock.sleep(rest_s)
    rig.enter(phase)
    rig.progress(f"idle, {phase}", total=seconds)
    edge_s = min(EDGE_S, seconds / 2)
    start_ns = rig.clock.monotonic_ns()
    rig.recorder.dense(True)
    rig.clock.sleep(edge_s)
    rig.recorder.dense(False)
    rig.clock.sleep(seconds - 2 * edge_s)
    rig.recorder.dense(True)
    rig.clock.sleep(edge_s)
    rig.recorder.dense(False)
    return Window(start_ns, rig.clock.monotonic_ns())
