"""Which prompts does a task of lm-eval ask, and is an answer right by the task's own metric?"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llenergymeasure.config.extras import install
from llenergymeasure.exceptions import ConfigError, PreFlightError
from llenergymeasure.workload.formats import Prompt, Reference

PREFIX = "lm-eval:"
_FORM = "lm-eval:<task>, such as lm-eval:gsm8k, or lm-eval:<path of a task's YAML file>"


def task_prompts(dataset: str) -> list[Prompt]:
    """The prompts of a task, each with the reference that `is_right` understands.

    PreFlightError where lm-eval is not installed or the task's data can't be had; ConfigError where there is
    no such task, or its metric does not say right or wrong of a generated text.
    """
    name = dataset.removeprefix(PREFIX)
    if find_spec("lm_eval") is None:
        raise PreFlightError(f"dataset {dataset} needs the package lm-eval", hint=install("lm-eval"))
    try:
        task = _task(name)
    except KeyError as error:
        raise ConfigError(f"lm-eval has no task {name!r}", hint=_FORM) from error
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PreFlightError(f"the task {name} of lm-eval can't be read: {said}", hint=_FORM) from error
    if task.config.output_type != "generate_until":
        raise ConfigError(
            f"the task {name} of lm-eval rates given answers ({task.config.output_type})",
            hint="choose one that generates text, whose output_type is generate_until",
        )
    if _value(task, 0, "") not in {0.0, 1.0}:
        raise ConfigError(
            f"the first metric of the task {name} of lm-eval is not right or wrong",
            hint="choose one with exact_match or acc",
        )
    return [
        Prompt(f"{task.config.task}-{at}", one.args[0], reference=Reference("lm-eval", (name, str(at))))
        for at, one in enumerate(task.instances)
    ]


def is_right(name: str, at: int, said: str) -> bool:
    """Whether the answer to prompt `at` of the task is right: by its filters and its first metric, on what
    comes before its first stop text.
    """
    return _value(_task(name), at, said) == 1.0


@cache
def _task(name: str) -> Any:
    """The task with all its prompts made."""
    from lm_eval.tasks import TaskManager

    is_file = Path(name).suffix in {".yaml", ".yml"}
    tasks = TaskManager(include_defaults=not is_file).load([name])["tasks"]
    if len(tasks) != 1:
        raise ValueError(f"it is a group of {len(tasks)} tasks; choose one of them")
    (task,) = tasks.values()
    task.build_all_requests(rank=0, world_size=1)
    return task


def _value(task: Any, at: int, said: str) -> float:
    one = task.instances[at]
    stops = one.args[1].get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        said = said.partition(stop)[0] if stop else said
    every, one.resps, one.filtered_resps = task.instances, [said], {}
    # Its filters take all instances that it holds.
    task._instances = [one]  # noqa: SLF001  there is no other way to filter a single one
    try:
        task.apply_filters()
    finally:
        task._instances = every  # noqa: SLF001  the same
    answer = next(iter(one.filtered_resps.values()))
    return float(next(iter(task.process_results(one.doc, [answer]).values())))
