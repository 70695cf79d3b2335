"""What does one NVIDIA board say of its energy and power?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llenergymeasure.energy.meters.device import Device, Question
from llenergymeasure.records import Clock, Quantity, Sample

ENERGY = Quantity("energy", "nvml.total_energy", "J", 1e-3)
_INSTANT = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
_AVERAGE = Quantity("power_average", "nvml.power.average", "W", 1e-3)
_USAGE = Quantity("power_usage", "nvml.power.usage", "W", 1e-3)
_MODULE_INSTANT = Quantity("power_instant", "nvml.module.power.instant", "W", 1e-3)
_MODULE_AVERAGE = Quantity("power_average", "nvml.module.power.average", "W", 1e-3)
_MODULE_SCOPE = 1

# What the batched call takes. A binding of before 2022 lacks the second and the third.
BINDING_NAMES = (
    "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "NVML_FI_DEV_POWER_INSTANT",
    "NVML_FI_DEV_POWER_AVERAGE",
    "nvmlDeviceGetFieldValues",
)
# nvmlGpuVirtualizationMode_t
_VGPU = 2

# The member of the driver's union that holds the value, by nvmlValueType_t.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def refusals(nvml: Any) -> tuple[type[Exception], ...]:
    """What a call raises where there is no answer: an older binding lacks functions, names and arguments, and
    a newer one has an error of its own for a driver that is older than itself.
    """
    mismatch = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
    return (nvml.NVMLError, mismatch, AttributeError, TypeError)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of the batched call; `asked` is its number, or number and scope."""

    asked: int | tuple[int, int]
    domain: str
    quantity: Quantity


class Board(Device):
    """An open board: `fields` are read in one batched call, functions one by one where that fails."""

    def __init__(self, nvml: Any, handle: Any, uuid: str, *, clock: Clock) -> None:
        self.uuid = uuid
        self.fields: tuple[_Field, ...] = ()
        self._nvml = nvml
        self.handle = handle
        super().__init__(
            (), errors=refusals(nvml), silent=f"the driver reports nothing of gpu:{uuid}", clock=clock
        )
        self._find_fields()
        self._find_functions()

    @property
    def quantities(self) -> Sequence[tuple[str, Quantity]]:
        return [*((field.domain, field.quantity) for field in self.fields), *super().quantities]

    def why_silent(self) -> str:
        """What the driver says when it is asked for the power of a board that gives nothing."""
        try:
            self._nvml.nvmlDeviceGetPowerUsage(self.handle)
        except self._errors as error:
            return f"{error}{' (a vGPU: only its host can measure it)' if self._is_vgpu() else ''}"
        return "neither energy nor power could be read twice in a row"

    def _is_vgpu(self) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetVirtualizationMode(self.handle) == _VGPU)
        except self._errors:
            return False

    def _read(self) -> tuple[list[Sample], Exception | None]:
        samples: list[Sample] = []
        failure: Exception | None = None
        if self.fields:
            try:
                samples, failure = self._read_fields()
            except self._errors as error:
                failure = error
        if self.questions:
            more, why = self._asked()
            return samples + more, why or failure
        return samples, failure

    def _read_fields(self) -> tuple[list[Sample], Exception | None]:
        nvml = self._nvml
        before_ns = self._clock.monotonic_ns()
        values = nvml.nvmlDeviceGetFieldValues(self.handle, [field.asked for field in self.fields])
        after_ns = self._clock.monotonic_ns()
        samples, failure = [], None
        for field, value in zip(self.fields, values, strict=False):
            if value.nvmlReturn == nvml.NVML_SUCCESS:
                raw = int(getattr(value.value, _MEMBERS[value.valueType]))
                samples.append(Sample(field.domain, field.quantity.name, before_ns, after_ns, raw))
            else:
                failure = nvml.NVMLError(value.nvmlReturn)
        return samples, failure

    def _find_fields(self) -> None:
        """Keep the fields that answer twice. The module counts where it reads otherwise than the GPU."""
        nvml, gpu, module = self._nvml, f"gpu:{self.uuid}", f"module:{self.uuid}"
        energy, instant, average = (getattr(nvml, name, None) for name in BINDING_NAMES[:3])
        wanted: list[tuple[Any, str, Quantity]] = [
            (energy, gpu, ENERGY),
            (instant, gpu, _INSTANT),
            (average, gpu, _AVERAGE),
        ]
        if instant is not None and average is not None:
            wanted += [
                ((instant, _MODULE_SCOPE), module, _MODULE_INSTANT),
                ((average, _MODULE_SCOPE), module, _MODULE_AVERAGE),
            ]
        self.fields = tuple(_Field(*one) for one in wanted if one[0] is not None)
        reads = [self._read()[0] for _ in range(2)]
        answers = [{(one.domain, one.quantity): one.raw for one in read} for read in reads]

        def counts(field: _Field) -> bool:
            key, same = (field.domain, field.quantity.name), (gpu, field.quantity.name)
            return all(key in answer for answer in answers) and (
                field.domain == gpu or any(answer[key] != answer.get(same) for answer in answers)
            )

        self.fields = tuple(field for field in self.fields if counts(field))

    def _find_functions(self) -> None:
        """Keep the functions that answer twice, of those for which there is no field."""
        gpu = f"gpu:{self.uuid}"
        found = {field.quantity for field in self.fields if field.domain == gpu}
        wanted = [] if ENERGY in found else [("nvmlDeviceGetTotalEnergyConsumption", ENERGY)]
        if not found & {_INSTANT, _AVERAGE}:
            wanted.append(("nvmlDeviceGetPowerUsage", _USAGE))

        def call(function: str) -> int:
            return int(getattr(self._nvml, function)(self.handle))

        self.questions = tuple(Question(gpu, quantity, partial(call, name)) for name, quantity in wanted)
        answers = [{one.quantity for one in self._asked()[0]} for _ in range(2)]
        self.questions = tuple(
            one for one in self.questions if all(one.quantity.name in answer for answer in answers)
        )
