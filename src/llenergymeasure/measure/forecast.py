"""How long will an experiment take, step by step, and how much of it is left?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Literal, TypeAlias

from llenergymeasure.config.models import ExperimentConfig, identity
from llenergymeasure.measure.budget import pass_seconds, passes_in, walks_in_pass
from llenergymeasure.records import Progress
from llenergymeasure.results import ExperimentResult

StepName: TypeAlias = Literal["cooling", "bare", "load", "loaded", "warm_up", "full", "prefill", "after"]

# Both silences around a block: 0.4 s each with a lag allowance of 0.15 s after it, and about half a second
# at each edge until a GPU's counter has stepped often enough; RAPL steps every millisecond.
GPU_SILENCES_S = 2 * 0.4 + 0.15 + 2 * 0.5
RAPL_SILENCES_S = 2 * 0.1
# Where a slow meter of the host leads: twice its memory and lag on each side.
_SLOW_SILENCES_S = {"ipmi": 160.0, "redfish": 160.0, "battery": 32.0}
# A sensor that averages forgets the work before an idle window.
REST_S = 1.0
# Two looks at the power, which is the least that cooling takes.
COOLING_S = 7.0
CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of what the configuration does not fix. `silences_s` are both silences around one block;
    `source` says where the figures come from.
    """

    setup_s: float
    load_s: float
    warm_up_s: float
    walk_s: float
    prefill_walk_s: float
    silences_s: float
    source: str

    def with_walk(self, walk_s: float) -> Pace:
        """As this run's own warm-up shows it; a prefill walk keeps its share."""
        share = self.prefill_walk_s / self.walk_s if self.walk_s else 1.0
        return replace(self, walk_s=walk_s, prefill_walk_s=share * walk_s, source="this run's warm-up")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one run; `most_s` is its cap, where it has one that is later."""

    name: StepName
    seconds: float
    most_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`runs` times the same steps, and `most_runs` where a target may ask for more."""

    runs: int
    most_runs: int
    steps: tuple[Step, ...]
    source: str

    @property
    def run_s(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def seconds(self) -> float:
        return self.runs * self.run_s

    @property
    def most_s(self) -> float:
        return self.most_runs * sum(step.most_s for step in self.steps)

    def left_s(self, *, run: int, begun: Sequence[StepName] = (), done_s: float = 0.0) -> float:
        """To the end of the last run, `done_s` into the last of the steps that this one has `begun`."""
        seconds = {step.name: step.seconds for step in self.steps if step.name not in begun[:-1]}
        if begun and begun[-1] in seconds:
            seconds[begun[-1]] = max(0.0, seconds[begun[-1]] - done_s)
        return sum(seconds.values()) + max(0, self.runs - run) * self.run_s


def forecast_at(config: ExperimentConfig, pace: Pace) -> Forecast:
    runs, passes = planned_runs(config, pace)
    most = runs
    if config.repeats.target is not None and runs == config.repeats.count:
        in_time = _affordable_passes(config, pace) // config.passes.count
        most = max(runs, min(config.repeats.max, in_time))
    return Forecast(runs, most, tuple(_steps(config, pace, passes)), pace.source)


def planned_runs(config: ExperimentConfig, pace: Pace) -> tuple[int, int]:
    """How many runs of how many passes the budget allows for; one of one in any case."""
    budget, runs, pass_s = config.passes.budget, config.repeats.count, pass_seconds(config, pace.walk_s)
    in_time = passes_in(budget.seconds / runs, pass_s)
    passes = max(1, min(config.passes.count, budget.passes // runs, in_time))
    return max(1, min(runs, ceil(_affordable_passes(config, pace) / passes))), passes


def find_pace(
    config: ExperimentConfig, history: Sequence[ExperimentResult] = (), *, gpu: bool = False
) -> Pace:
    """From earlier results of this machine and model, the newest first: of the same experiment, else of the
    same model, else a guess, for which `gpu` says whether there is one.
    """
    mine = identity(config)
    ranked = sorted(history, key=lambda result: identity(result.config) != mine)
    found = next((pace for pace in (_pace_of(result, config) for result in ranked) if pace), None)
    return found or _guess(config, gpu=gpu)


class Tracker:
    """A `Progress` that adds to each step its number, its run, and the time left.

    `enter` names the step that begins; `measured` corrects the forecast by what the run has shown.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        pace: Pace,
        tell: Progress,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._pace, self._tell, self._now = config, pace, tell, now
        self._run, self._runs = 1, forecast_at(config, pace).runs
        self._begun: list[StepName] = []
        self._since = now()
        target, most = config.repeats.target, config.repeats.max
        self._known = None if target is None else f"until ± {target * 100:.2g} %, at most {most} runs"
        self._watts: Callable[[], float | None] = lambda: None
        self._tokens_per_s: float | None = None

    def begin_run(self, run: int, runs: int) -> None:
        self._run, self._runs, self._since = run, runs, self._now()
        self._begun.clear()

    def enter(self, name: str) -> None:
        """What is not a step of the plan, or has begun already, changes nothing."""
        step = next((one.name for one in self._forecast().steps if one.name == name), None)
        if step is not None and step not in self._begun:
            self._begun.append(step)
            self._since = self._now()

    def measured(
        self, *, walk_s: float | None = None, load_s: float | None = None, warm_up_s: float | None = None
    ) -> None:
        if walk_s is not None:
            self._pace = self._pace.with_walk(walk_s)
            if walk_s > 0 and self._config.output_length == "exact":
                self._tokens_per_s = self._config.n * self._config.max_output_tokens / walk_s
        if load_s is not None:
            self._pace = replace(self._pace, load_s=load_s)
        if warm_up_s is not None:
            self._pace = replace(self._pace, warm_up_s=warm_up_s)

    def watched(self, watts: Callable[[], float | None]) -> None:
        """`watts` gives the power now, whenever it is asked."""
        self._watts = watts

    def known(self, half_width: float | None) -> None:
        """How well the cost is known after the runs so far, relative."""
        target = self._config.repeats.target
        if half_width is not None:
            wanted = "" if target is None else f", target ± {target * 100:.2g} %"
            self._known = f"± {half_width * 100:.2g} % so far{wanted}"

    def _live(self) -> str | None:
        """What is known at this moment; the rate is that of the warm-up, and only while passes run."""
        watts, passing = self._watts(), self._begun[-1:] == ["full"]
        rate = f"≈ {self._tokens_per_s:.3g} token/s" if passing and self._tokens_per_s else None
        parts = (None if watts is None else f"{watts:.3g} W", rate, self._known)
        return ", ".join(filter(None, parts)) or None

    def __call__(
        self,
        description: str,
        *,
        done: float | None = None,
        total: float | None = None,
        note: str | None = None,
        passes: int | None = None,
        **_: object,
    ) -> None:
        plan = self._forecast()
        begun = len(self._begun)
        done_s = self._now() - self._since
        left_s = plan.left_s(run=self._run, begun=self._begun, done_s=done_s)
        if passes is not None and total is not None:
            # A target within a run asks for more passes than were planned.
            this = next((step for step in plan.steps if step.name in self._begun[-1:]), None)
            left_s += max(0.0, total - max(0.0, (this.seconds if this else 0.0) - done_s))
        self._tell(
            description,
            done=done,
            total=total,
            step=begun or None,
            steps=max(begun, len(plan.steps)),
            run=self._run,
            runs=self._runs,
            left_s=left_s,
            note=note,
            passes=passes,
            live=self._live,
        )

    def _forecast(self) -> Forecast:
        return replace(forecast_at(self._config, self._pace), runs=self._runs)


def _steps(config: ExperimentConfig, pace: Pace, passes: int) -> Iterator[Step]:
    idle, warmup, cooling = config.baseline.seconds, config.warmup, config.baseline.cooling_seconds
    if cooling:
        yield Step("cooling", min(cooling, COOLING_S), cooling)
    if idle:
        yield Step("bare", idle, idle)
    load_s = pace.setup_s + pace.load_s
    yield Step("load", load_s, load_s)
    if idle:
        yield Step("loaded", REST_S + idle, REST_S + idle)
    alike = "stretches of the load" if config.is_stream else "batches"
    agree = f"until {warmup.window} {alike} agree within {warmup.variation * 100:.3g} %"
    yield Step("warm_up", pace.warm_up_s, max(pace.warm_up_s, warmup.max_seconds), agree)
    if config.is_stream:
        seconds = passes * config.passes.seconds
        windows = f"{passes} window{'s'[: passes != 1]} of {config.passes.seconds:g} s"
        yield Step("full", seconds, seconds, f"{windows} of the running load, which then drains")
    else:
        block = _block("full", config, passes, walk_s=pace.walk_s, silences_s=pace.silences_s)
        if config.passes.target is not None and passes == config.passes.count >= 2:
            more_s = (_affordable_passes(config, pace) - passes) * pass_seconds(config, pace.walk_s)
            more = pace.silences_s + more_s if more_s > 0 else 0.0
            block = replace(block, most_s=block.seconds + more, note=f"{block.note}; more until the target")
        yield block
    if config.why_no_prefill is None:
        count = config.passes.prefill
        block = _block("prefill", config, count, walk_s=pace.prefill_walk_s, silences_s=pace.silences_s)
        yield replace(block, note=f"{block.note}, one output token each")
    after_s = CLOSE_S + (REST_S + idle if idle else 0.0)
    yield Step("after", after_s, after_s, "and close")


def _block(
    name: StepName, config: ExperimentConfig, passes: int, *, walk_s: float, silences_s: float
) -> Step:
    walks, seconds = walks_in_pass(config, walk_s), silences_s + passes * pass_seconds(config, walk_s)
    of = f"{passes} pass{'' if passes == 1 else 'es'} of about {walks:,} walk{'' if walks == 1 else 's'}"
    note = f"{of} over the prompts" + (", between two silences" if silences_s else "")
    return Step(name, seconds, seconds, note)


def _affordable_passes(config: ExperimentConfig, pace: Pace) -> int:
    """Passes of all runs that the budget allows for, where the last may begin right before its end."""
    budget = config.passes.budget
    return max(1, min(budget.passes, ceil(budget.seconds / pass_seconds(config, pace.walk_s))))


def _pace_of(result: ExperimentResult, config: ExperimentConfig) -> Pace | None:
    """By the result of another run of its model, whose walks take longer the more work is in them."""
    before, runs = result.config, result.measured
    walks_s = [
        run.window.duration_s * before.n / run.tokens.requests
        for run in runs
        if run.window and run.tokens and run.tokens.requests
    ]
    costs = [run.overhead for run in runs if run.overhead is not None]
    if not walks_s or not costs:
        return None
    walk_s = median(walks_s) * _work(config) / _work(before)
    firsts = [run.figures.ttft_p50_s for run in runs if run.figures and run.figures.ttft_p50_s]
    batches = ceil(config.n / config.batch_size)
    sources = {reading.source.partition(".")[0] for reading in result.energy.readings}
    return Pace(
        setup_s=min(cost.setup_s for cost in costs),  # a model is fetched or converted once
        load_s=median(cost.load_s for cost in costs),
        warm_up_s=median(cost.warmup_s for cost in costs),
        walk_s=walk_s,
        prefill_walk_s=min(walk_s, median(firsts) * batches) if firsts else walk_s,
        silences_s=_silences_s(sources),
        source=f"from {result.experiment_id}",
    )


def _silences_s(meters: AbstractSet[str]) -> float:
    """The longest that one of them needs; a modelled figure needs none."""
    if slow := [_SLOW_SILENCES_S[meter] for meter in meters if meter in _SLOW_SILENCES_S]:
        return max(slow)
    if meters & {"nvml", "amd", "amdsmi"}:
        return GPU_SILENCES_S
    return RAPL_SILENCES_S if "rapl" in meters else 0.0


def _work(config: ExperimentConfig) -> float:
    """Steps of one walk: batches times output tokens, which is what decoding takes time for."""
    return ceil(config.n / config.batch_size) * config.max_output_tokens


def _guess(config: ExperimentConfig, *, gpu: bool) -> Pace:
    """For a small model: seconds until an engine is imported and its weights are read, and a step in tens of
    milliseconds.
    """
    simulated = config.engine.is_simulated
    batches = ceil(config.n / config.batch_size)
    step_s, first_s, load_s = (0.03, 0.05, 20.0) if gpu else (0.05, 0.3, 5.0)
    if simulated:
        asked = config.simulated
        step_s, load_s = asked.decode_s_per_step, asked.load_s
        first_s = asked.prefill_s_per_token * config.dataset.prompt_tokens * config.batch_size
    batch_s = first_s + config.max_output_tokens * step_s
    needed = max(config.warmup.min_batches, config.warmup.window) + 2
    unit_s = max(0.5, 2 * batch_s) if config.is_stream else batch_s
    meter = config.energy.meter
    meters = {"nvml"} if meter == "auto" and (gpu or simulated) else {meter}
    return Pace(
        setup_s=2.0,
        load_s=load_s,
        warm_up_s=min(needed * unit_s, config.warmup.max_seconds + batch_s),
        walk_s=batches * batch_s,
        prefill_walk_s=batches * first_s,
        silences_s=_silences_s(meters),
        source="a guess: there is no earlier result of this model on this machine",
    )
