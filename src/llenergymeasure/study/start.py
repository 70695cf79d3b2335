"""How does a study file become a study that runs?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import JsonValue, ValidationError

from llenergymeasure.config.flat import leaves
from llenergymeasure.config.loader import read_sources, resolve
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.study import Execution, StudyFile, read_study, study_from, with_execution
from llenergymeasure.exceptions import ConfigError, LLEMError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study.account import account
from llenergymeasure.study.executors import executor_for
from llenergymeasure.study.plan import Plan, make_plan
from llenergymeasure.study.run import How, Step, run_plan
from llenergymeasure.study.visits import visit_groups


def planned(
    study: str | Path | Mapping[str, JsonValue],
    *,
    overrides: Mapping[str, JsonValue] | None = None,
    execution: Mapping[str, JsonValue] | None = None,
) -> Plan:
    """The plan of a file or of a mapping of its keys; `execution` replaces keys of that section."""
    if isinstance(study, Mapping):
        return plan_of(study_from(with_execution(study, execution or {})), overrides)
    return plan_of(read_study(Path(study), execution=execution), overrides)


def plan_of(study: StudyFile, overrides: Mapping[str, JsonValue] | None = None) -> Plan:
    flags = dict(overrides or {})
    swept = {key for axis in study.axes for choice in axis.choices for key in choice}
    if twice := sorted(swept & flags.keys()):
        raise ConfigError(f"{', '.join(twice)}: given for all experiments, and swept by the study")
    wanted: dict[str, JsonValue] = {}
    if study.execution.parallel == "per-gpu" and "energy.meter" not in dict(leaves(dict(study.base))):
        # The processors are everybody's: no run has their energy to itself.
        wanted["energy.meter"] = "nvml"
    sources = read_sources(study.path, flags, content={**study.base, **wanted})
    return make_plan(
        study,
        lambda point: resolve(sources, point.settings, swept=point.swept),
        adjust=partial(_adjusted, execution=study.execution),
        describe=_why,
    )


def _adjusted(config: ExperimentConfig, *, execution: Execution) -> ExperimentConfig:
    """With the limits of the study, which do not make it another experiment."""
    baseline = config.baseline
    if execution.cooling:
        baseline = baseline.model_copy(update={"cooling_seconds": execution.cooling})
    limit_s = config.timeout_s if execution.timeout is None else execution.timeout
    adjusted = config.model_copy(update={"baseline": baseline, "timeout_s": limit_s})
    return adjusted.with_origins(config.origins)


def folder_of(plan: Plan, output_dir: str | Path | None) -> Path:
    """Of the study's results: its name, as far as that can name a folder, in a directory that was given, else
    in that of its file. ConfigError where there is none.
    """
    place = output_dir or plan.experiments[0].config.output_dir
    if place is None:
        raise ConfigError(
            "a study is stored as it goes, and no output directory was given", hint="--output results"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.name or "").strip("-.") or f"study-{plan.identity[:8]}"
    return Path(place) / name


def gpus_of(plan: Plan) -> list[str]:
    """Those that runs take one of each; none where runs follow one another. ConfigError on a host without."""
    if plan.execution.parallel == "none":
        return []
    gpus = [gpu.uuid for gpu in gpu_facts()]
    if not gpus:
        raise ConfigError(
            "execution.parallel is per-gpu, and this host has no NVIDIA GPU",
            hint="take it out: runs then follow one another",
        )
    return gpus


def run(
    plan: Plan,
    folder: Path,
    *,
    how: How | None,
    tell: Callable[[Step], None],
    remark: Callable[[str], None],
) -> StudyResult:
    """Run what is not there yet, and write `study.json` and a report whatever ends it."""
    gpus = gpus_of(plan)
    executor = executor_for(plan.execution, folder, gpus=gpus)
    if gpus:
        remark(f"Runs side by side on {len(gpus)} GPUs share one chassis: neighbours warm each other")
    alone = plan.execution.executor == "local" and not gpus
    if not alone and visit_groups(plan.experiments):
        remark("Each run launches its own server: loads share one where runs take turns on this host")
    try:
        run_plan(plan, folder, executor=executor, how=how or How(), tell=tell, remark=remark, visits=alone)
    except (KeyboardInterrupt, SystemExit):
        _conclude(plan, folder, remark)
        remark(f"Stopped; what was measured is in {folder}. To go on: the same command with --resume")
        raise
    return _conclude(plan, folder, remark)


def _conclude(plan: Plan, folder: Path, remark: Callable[[str], None]) -> StudyResult:
    result = account(plan, folder)
    result.write(folder)
    # With numpy and pyarrow, which a dry run does without.
    from llenergymeasure.report.page import report_of_study

    report_of_study(folder, remark)
    return result


def _why(error: Exception) -> str:
    """Why a point is not an experiment, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    return error.message if isinstance(error, LLEMError) else str(error)
