"""What does one NVIDIA board say of its energy and power?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Quantity, Sample

ENERGY = Quantity("energy", "nvml.total_energy", "J", 1e-3)
_INSTANT = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
_AVERAGE = Quantity("power_average", "nvml.power.average", "W", 1e-3)
_USAGE = Quantity("power_usage", "nvml.power.usage", "W", 1e-3)
_MODULE_INSTANT = Quantity("power_instant", "nvml.module.power.instant", "W", 1e-3)
_MODULE_AVERAGE = Quantity("power_average", "nvml.module.power.average", "W", 1e-3)
_MODULE_SCOPE = 1

# The member of the driver's union that holds the value, by nvmlValueType_t.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of the batched call; `asked` is its number, or number and scope."""

    asked: int | tuple[int, int]
    domain: str
    quantity: Quantity


class Board:
    """An open board: `fields` are read in one batched call, `functions` one by one where that fails."""

    period_s: float | None = None

    def __init__(self, nvml: Any, handle: Any, uuid: str, *, clock: Clock) -> None:
        self.uuid = uuid
        self.fields: tuple[_Field, ...] = ()
        self.functions: tuple[tuple[str, Quantity], ...] = ()
        self.driver_cpu_ns = 0
        self._nvml = nvml
        self._handle = handle
        self._clock = clock
        self._find_fields()
        self._find_functions()

    @property
    def name(self) -> str:
        return f"gpu:{self.uuid}"

    @property
    def quantities(self) -> Sequence[tuple[str, Quantity]]:
        """(domain, quantity) of all that it gives."""
        fields = [(field.domain, field.quantity) for field in self.fields]
        return [*fields, *((self.name, quantity) for _, quantity in self.functions)]

    @property
    def domains(self) -> Sequence[str]:
        return tuple(dict.fromkeys(domain for domain, _ in self.quantities))

    def sample(self) -> Sequence[Sample]:
        """All of its quantities. EnergyError with the driver's reason where it gives none."""
        samples: list[Sample] = []
        failure: Exception | None = None
        if self.fields:
            try:
                samples, failure = self._read_fields()
            except self._nvml.NVMLError as error:
                failure = error
        for function, quantity in self.functions:
            before_ns = self._clock.monotonic_ns()
            cpu_ns = time.thread_time_ns()
            try:
                raw = int(getattr(self._nvml, function)(self._handle))
            except self._nvml.NVMLError as error:
                failure = error
                continue
            finally:
                self.driver_cpu_ns += time.thread_time_ns() - cpu_ns
            samples.append(Sample(self.name, quantity.name, before_ns, self._clock.monotonic_ns(), raw))
        if not samples:
            raise EnergyError(f"the driver gives nothing of {self.name}: {failure}")
        return samples

    def why_silent(self) -> str:
        """What the driver says when it is asked for the power of a board that gives nothing."""
        try:
            self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        except self._nvml.NVMLError as error:
            return str(error)
        return "neither its energy nor its power was given twice in a row"

    def _read_fields(self) -> tuple[list[Sample], Exception | None]:
        nvml = self._nvml
        asked = [field.asked for field in self.fields]
        cpu_ns = time.thread_time_ns()
        before_ns = self._clock.monotonic_ns()
        try:
            values = nvml.nvmlDeviceGetFieldValues(self._handle, asked)
        finally:
            after_ns = self._clock.monotonic_ns()
            self.driver_cpu_ns += time.thread_time_ns() - cpu_ns
        samples, failure = [], None
        for field, value in zip(self.fields, values, strict=False):
            if value.nvmlReturn == nvml.NVML_SUCCESS:
                raw = int(getattr(value.value, _MEMBERS[value.valueType]))
                samples.append(Sample(field.domain, field.quantity.name, before_ns, after_ns, raw))
            else:
                failure = nvml.NVMLError(value.nvmlReturn)
        return samples, failure

    def _answers(self) -> list[dict[tuple[str, str], int]]:
        """What two reads in a row say, by domain and quantity; empty where it says nothing."""
        answers = []
        for _ in range(2):
            try:
                answers.append({(one.domain, one.quantity): one.raw for one in self.sample()})
            except EnergyError:
                answers.append({})
        return answers

    def _find_fields(self) -> None:
        """Keep the fields that answer twice. The module counts where it reads otherwise than the GPU."""
        nvml, module = self._nvml, f"module:{self.uuid}"
        instant, average = nvml.NVML_FI_DEV_POWER_INSTANT, nvml.NVML_FI_DEV_POWER_AVERAGE
        candidates = (
            _Field(nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, self.name, ENERGY),
            _Field(instant, self.name, _INSTANT),
            _Field(average, self.name, _AVERAGE),
            _Field((instant, _MODULE_SCOPE), module, _MODULE_INSTANT),
            _Field((average, _MODULE_SCOPE), module, _MODULE_AVERAGE),
        )
        self.fields = candidates
        first, second = self._answers()
        self.fields = tuple(
            field
            for field in candidates
            if (key := (field.domain, field.quantity.name)) in first
            and key in second
            and (
                field.domain == self.name
                or any(answer[key] != answer.get((self.name, key[1])) for answer in (first, second))
            )
        )

    def _find_functions(self) -> None:
        fields = self.fields
        found = {field.quantity.name for field in fields if field.domain == self.name}
        wanted = [("nvmlDeviceGetTotalEnergyConsumption", ENERGY)]
        if not found & {_INSTANT.name, _AVERAGE.name}:
            wanted.append(("nvmlDeviceGetPowerUsage", _USAGE))
        self.fields = ()
        self.functions = tuple(one for one in wanted if one[1].name not in found)
        first, second = self._answers()
        self.functions = tuple(
            one for one in self.functions if (self.name, one[1].name) in first.keys() & second.keys()
        )
        self.fields = fields
