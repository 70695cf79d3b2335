"""The parent of one run: clears it, records it, and hands over what was measured."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

from llenergymeasure.analysis.run_energy import counted_domains, idle_watts, pass_costs
from llenergymeasure.config.models import ExperimentConfig, config_hash
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.host.cgroups import throttling
from llenergymeasure.measure.budget import Turn
from llenergymeasure.measure.child import ChildWorker
from llenergymeasure.measure.conditions import Conditions, quota_s, tree_cpu_s
from llenergymeasure.measure.container import launcher
from llenergymeasure.measure.environment import boot_id, environment
from llenergymeasure.measure.forecast import Tracker
from llenergymeasure.measure.gpus import PlacedWorker, gpu_facts, require_readable, used_gpus
from llenergymeasure.measure.harness import Observations, Phase, Rig, conduct
from llenergymeasure.measure.launch import Launch, local
from llenergymeasure.measure.lock import DomainLocks, run_domains
from llenergymeasure.measure.look import PowerNow
from llenergymeasure.measure.meters import FollowedDevice, meters_for
from llenergymeasure.measure.preflight import Cleared, preflight
from llenergymeasure.measure.replay import write_measurement
from llenergymeasure.measure.scratch import temporary_in
from llenergymeasure.models.gguf import is_converted
from llenergymeasure.models.resolve import ResolvedModel, fetched, weights_path
from llenergymeasure.records import (
    Block,
    Environment,
    Measurement,
    Overhead,
    Progress,
    SessionFacts,
    Start,
    Trace,
    Window,
)
from llenergymeasure.results.store import write_requests
from llenergymeasure.workload.prepared import check_prompts

# It is recorded still, and lies beside the events.
_NO_TRACE = Trace((), {})


@dataclass(frozen=True, slots=True)
class Job:
    """One run of an experiment: its turn, the folder for its files, one for what goes with the run, and what
    it shares with the others. `asked` is what the user asked for, where the run gets more: the server that
    serves it.
    """

    experiment: str
    origins: Mapping[str, str]
    turn: Turn
    directory: Path
    temporary: Path
    locks: DomainLocks
    tell: Tracker
    asked: ExperimentConfig | None = None


Run: TypeAlias = Callable[[ExperimentConfig, Job], Measurement]


def run(config: ExperimentConfig, job: Job) -> Measurement:
    """One run in a process of its own. Whatever ends it, no process or thread of it is left."""
    with temporary_in(job.temporary) as temporary:
        measurement = _measure(config, job, start_local=partial(local, temporary=temporary))
    write_measurement(job.directory, measurement)
    return measurement


def started_now() -> Start:
    return Start(datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic_ns(), boot_id())


def _measure(config: ExperimentConfig, job: Job, *, start_local: Callable[[], Launch]) -> Measurement:
    started, tell, directory = started_now(), job.tell, job.directory
    device = None
    if config.engine.is_simulated:
        device = FollowedDevice(config, clock=time, run=job.turn.number)
    nvml = None if device is None else device.nvml
    gpus = gpu_facts(nvml)
    launch = start_local if config.runner.kind == "local" else launcher(config, gpus)

    with ChildWorker(config, run_id=job.experiment, directory=directory, launch=launch) as child:

        def worker() -> str:
            return next((str(pid) for pid in child.pids()), "self")

        conditions = Conditions(
            own_s=lambda: tree_cpu_s(child.pids()),
            quota_s=lambda: quota_s(worker()),
            throttled=lambda: throttling(pid=worker()),
        )
        tell("checking")
        choose = partial(
            meters_for,
            config,
            processes=child.pids,
            device=device,
            # One that was lost in an earlier run costs its part of the result, not the runs that are left.
            hosts_must_answer=job.turn.number == 1,
        )
        cleared = preflight(config, choose, gpus=gpus)
        job.locks.take(run_domains(cleared.meters.domains, config))
        model = _ready(cleared.model, tell, as_gguf=config.engine.filed is not None)
        tell("making token ids of the prompts")
        # In a container it is the image that has what makes token ids, and its worker that refuses.
        if config.runner.kind == "local":
            check_prompts(config)
        here = environment(gpus)
        with Recorder(
            cleared.meters.meters, clock=time, directory=directory, boundary=config.energy.boundary
        ) as recorder:
            setup_s = (time.monotonic_ns() - started.monotonic_ns) / 1e9
            tell.watched(PowerNow(recorder.domains, recorder.latest))
            known = _Run(config, job, started, here, cleared, model, conditions, recorder, setup_s)

            def keep(seen: Observations) -> None:
                recorder.flush()
                write_measurement(directory, known.measurement(seen, _NO_TRACE))

            rig = Rig(
                worker=PlacedWorker(
                    child,
                    used=lambda: used_gpus(child.pids(), nvml),
                    claim=partial(_claim, config, job.locks, cleared.meters),
                ),
                recorder=recorder,
                clock=time,
                enter=partial(_enter, device, conditions, job),
                mark=conditions.mark,
                progress=tell,
                warmed=lambda warm_up: tell.measured(
                    walk_s=warm_up.walk_s, warm_up_s=warm_up.window.duration_s
                ),
                keep=keep,
                costs=partial(_costs, config, recorder),
                watts=partial(_watts, recorder),
            )
            seen = conduct(config, rig, job.turn)
    write_requests(directory / "requests.parquet", seen.blocks)
    return known.measurement(seen, recorder.trace())


@dataclass(frozen=True, slots=True)
class _Run:
    """What the parent knows of a run, and reads of the machine while it lasts."""

    config: ExperimentConfig
    job: Job
    started: Start
    here: Environment
    cleared: Cleared
    model: ResolvedModel | None
    conditions: Conditions
    recorder: Recorder
    setup_s: float

    def measurement(self, seen: Observations, trace: Trace) -> Measurement:
        recorder, conditions = self.recorder, self.conditions
        return Measurement(
            experiment_id=self.job.experiment,
            index=self.job.turn.number,
            config=self.job.asked or self.config,
            origins=self.job.origins,
            started=self.started,
            environment=self.here,
            facts=seen.facts,
            architecture=None if self.model is None else self.model.architecture,
            idle=seen.idle,
            load=seen.ready.load,
            warm_up=seen.warm_up,
            blocks=seen.blocks,
            trace=trace,
            overhead=Overhead(recorder.cpu_s, recorder.samples, self.setup_s),
            warnings=conditions.warnings(),
            simulated=self.config.engine.is_simulated,
            notes=_notes(self.cleared),
            workload_hash=seen.ready.workload_hash,
            cut_prompts=seen.ready.cut,
            dataset=seen.ready.dataset,
            output_lengths=seen.ready.output_lengths,
            spinning_cores=conditions.spinning_cores,
            throttling=conditions.throttling,
            unread=dict(self.cleared.meters.unread),
            traits=self.config.engine,
        )


def _enter(device: FollowedDevice | None, conditions: Conditions, job: Job, phase: Phase) -> None:
    # The simulated board falls silent at once, and begins to work just before the worker does.
    if device is not None and phase == "silence":
        device.enter(phase)
    conditions.enter(phase)
    if phase == "load" and job.turn.number == 1:
        # What the idle machine showed is said now: minutes of passes on it may be in vain.
        for seen in conditions.warnings():
            job.turn.remark(f"{seen.message}; {seen.remedy}")
    if device is not None and phase != "silence":
        device.enter(phase)
    job.tell.enter(phase)


def _costs(
    config: ExperimentConfig, recorder: Recorder, facts: SessionFacts, blocks: Sequence[Block]
) -> Sequence[float]:
    windows = [block.window for block in blocks]
    trace = recorder.trace(windows=windows)
    return pass_costs(trace, counted_domains(trace.domains, config, facts), blocks)


def _watts(recorder: Recorder, windows: Sequence[Window]) -> Sequence[float | None]:
    trace = recorder.trace(windows=windows)
    return [idle_watts(trace, window) for window in windows]


def _claim(config: ExperimentConfig, locks: DomainLocks, meters: Selection, gpu_uuids: Sequence[str]) -> None:
    """Lock the GPUs that the engine turned out to use, where they are recorded and not locked yet; refuse
    those that can't be read.
    """
    require_readable(config.energy, meters, gpu_uuids)
    used = {f"{kind}:{uuid}" for uuid in gpu_uuids for kind in ("gpu", "module")}
    locks.take(domain.name for domain in meters.domains if domain.name in used)


def _ready(model: ResolvedModel | None, tell: Progress, *, as_gguf: bool) -> ResolvedModel | None:
    """The model with its files on this disk in a form that loads, so that no window holds a download."""
    if model is None:
        return None
    if model.kind == "hub" and model.path is None:
        tell("downloading the model, once")
        return fetched(model)
    if model.kind == "gguf" and not as_gguf:
        if model.path is not None and not is_converted(model.path):
            tell("converting the model, once")
        weights_path(model)
    return model


def _notes(cleared: Cleared) -> tuple[str, ...]:
    notes = [f"meter {name} was not used: {why}" for name, why in cleared.meters.refused]
    notes += cleared.meters.notes
    if cleared.container is not None:
        notes.append(f"the worker ran in {cleared.container.engine}, image {cleared.container.image_id}")
    return tuple(notes)


def experiment_id(config: ExperimentConfig, started: Start) -> str:
    """When, what, on what, and enough of a hash and of chance that two runs never share a folder."""
    stamp = re.sub(r"[^0-9T]", "", started.utc.partition("+")[0])
    model = re.sub(r"[^A-Za-z0-9.]+", "-", config.model.rstrip("/").rpartition("/")[2]).strip("-.")[:40]
    return f"{stamp}-{model or 'model'}-{config.backend}-{config_hash(config)[:8]}-{secrets.token_hex(2)}"
