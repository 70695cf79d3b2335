"""`llem compare --run`: how do two files of experiments become a comparison, with nothing measured yet?"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from llenergymeasure.analysis.limits import limit_of
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import say, talk
from llenergymeasure.cli.compare import form_of, judge_gates, show
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records.dataset import counted
from llenergymeasure.study.blocks import Until, run_in_blocks
from llenergymeasure.study.executors import LocalExecutor


def compare_running(  # noqa: PLR0913  the options of the command
    paths: Sequence[Path],
    *,
    output: str | None,
    at_least: str | None,
    budget: str | None,
    allowed: Collection[str],
    limits: Sequence[str],
    form: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run two experiments in blocks until they can be told apart, and print how they compare."""
    with reported(verbose=verbose):
        chosen, gates = form_of(form), [limit_of(text) for text in limits]
        if len(paths) != 2:
            raise ConfigError(f"--run takes two experiments, and {len(paths)} were given")
        until = Until(
            at_least=None if at_least is None else share_of(at_least),
            seconds=math.inf if budget is None else seconds_of(budget),
        )
        configs = load_experiment_config(paths[0]), load_experiment_config(paths[1])
        place = output or next((one.output_dir for one in configs if one.output_dir is not None), None)
        if place is None:
            raise ConfigError(
                "the runs are stored as they are made, and no output directory was given",
                hint="--output results",
            )
        found = run_in_blocks(
            configs,
            Path(place),
            until=until,
            executor=LocalExecutor(),
            allow=allowed,
            tell=_unheard if quiet else talk,
            remark=talk,
        )
        for folder in found.folders:
            say(f"Saved: {folder}")
        say(f"Ended after {counted(found.blocks, 'block')}: {found.why}")
        show(found.comparison, chosen, judge_gates(found.comparison, gates))


def _unheard(text: str) -> None:
    pass


def share_of(text: str) -> float:
    """`3%`; ConfigError for what is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--at-least {text}: a share in percent is needed", hint="such as --at-least 3%")
    return float(found[1]) / 100


def seconds_of(text: str) -> float:
    """`90s`, `30min`, `2h`; ConfigError for what is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*", text)
    if found is None:
        raise ConfigError(f"--budget {text}: a time is needed", hint="such as 90s, 30min or 2h")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]
