"""`llem merge`: parts of a study from several machines in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import say_saved, talk
from llenergymeasure.cli.study import show
from llenergymeasure.report.page import report_of_study
from llenergymeasure.study.merge import merge as merge_studies


def merge(studies: Sequence[Path], output: Path, *, accept_drift: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        merged = merge_studies(studies, output, accept_drift=accept_drift)
        report_of_study(output, talk)
        say_saved(output)
        show(merged, form="text", sort=None)
