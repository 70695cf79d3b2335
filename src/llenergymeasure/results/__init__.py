"""The result: its fields are the file's keys."""

from __future__ import annotations

from llenergymeasure.results.models import ExperimentResult

__all__ = ["ExperimentResult"]
