"""The result: its fields are the file's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llenergymeasure.results.models import ExperimentResult

__all__ = ["ExperimentResult"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # What only asks which disk is full does not load the models of a result.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from llenergymeasure.results import models

        return getattr(models, name)
