"""Frozen facts that cross layers: what was read, what was done, what went wrong.

Units are SI and stand in the name; every `_ns` is a reading of CLOCK_MONOTONIC on the one kernel that parent
and worker share. Missing is None, with a reason beside it where a user will look for the value.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llenergymeasure.exceptions import FailureKind, RunFailure, Stage

if TYPE_CHECKING:
    from llenergymeasure.records.architecture import (
        Architecture,
        Attention,
        Layer,
        Matrix,
        Quantisation,
        Recurrence,
    )
    from llenergymeasure.records.clocks import HostClock, RoundTrip
    from llenergymeasure.records.completions import Completion, Completions, FinishReason, Verdict
    from llenergymeasure.records.counts import RequestCounts, ServerCounts
    from llenergymeasure.records.dataset import DatasetFacts, SkippedRecords
    from llenergymeasure.records.machine import Environment, GpuFacts, Overhead, Start, Throttling
    from llenergymeasure.records.marks import BoundaryName, Marked, MeterChoice, Recording, RecordingKind
    from llenergymeasure.records.measurement import Measurement
    from llenergymeasure.records.measuring import (
        CalibratedBy,
        Domain,
        DomainKind,
        EnergyReading,
        Estimate,
        Gap,
        Method,
        PowerModel,
        Quantity,
        Sample,
        Series,
        Trace,
        Unit,
    )
    from llenergymeasure.records.measuring import Integers as Integers
    from llenergymeasure.records.running import (
        Block,
        BlockKind,
        Generation,
        Idle,
        Pass,
        Progress,
        Request,
        Served,
        SessionFacts,
        WarmUp,
    )
    from llenergymeasure.records.telling import (
        REMEDIES,
        FailedRun,
        MeasurementWarning,
        WarningCode,
    )
    from llenergymeasure.records.windows import Clock, Window

__all__ = [
    "REMEDIES",
    "Architecture",
    "Attention",
    "Block",
    "BlockKind",
    "BoundaryName",
    "CalibratedBy",
    "Clock",
    "Completion",
    "Completions",
    "DatasetFacts",
    "Domain",
    "DomainKind",
    "EnergyReading",
    "Environment",
    "Estimate",
    "FailedRun",
    "FailureKind",
    "FinishReason",
    "Gap",
    "Generation",
    "GpuFacts",
    "HostClock",
    "Idle",
    "Layer",
    "Marked",
    "Matrix",
    "Measurement",
    "MeasurementWarning",
    "MeterChoice",
    "Method",
    "Overhead",
    "Pass",
    "PowerModel",
    "Progress",
    "Quantisation",
    "Quantity",
    "Recording",
    "RecordingKind",
    "Recurrence",
    "Request",
    "RequestCounts",
    "RoundTrip",
    "RunFailure",
    "Sample",
    "Series",
    "Served",
    "ServerCounts",
    "SessionFacts",
    "SkippedRecords",
    "Stage",
    "Start",
    "Throttling",
    "Trace",
    "Unit",
    "Verdict",
    "WarmUp",
    "WarningCode",
    "Window",
]

# Where a name is looked up once somebody asks for it, the lightest module first: a reader of sensors needs
# few of them, and importing pydantic and the configuration takes longer than all of those.
_MODULES = (
    "windows",
    "clocks",
    "machine",
    "measuring",
    "telling",
    "marks",
    "counts",
    "dataset",
    "architecture",
    "completions",
    "running",
    "measurement",
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in __all__:
            for module in _MODULES:
                if name in (there := vars(import_module(f"{__name__}.{module}"))):
                    globals()[name] = there[name]
                    return there[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
