"""What a meter must offer, and which meters there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from llenergymeasure.records import Domain, Gap, RoundTrip, Sample

METERS = {
    "nvml": "llenergymeasure.energy.meters.nvml:NvmlMeter",
    "amd": "llenergymeasure.energy.meters.amd:AmdMeter",
    "rapl": "llenergymeasure.energy.meters.rapl:RaplMeter",
    "apple": "llenergymeasure.energy.meters.apple:AppleMeter",
    "hwmon": "llenergymeasure.energy.meters.hwmon:HwmonMeter",
    "battery": "llenergymeasure.energy.meters.battery:BatteryMeter",
    "ipmi": "llenergymeasure.energy.meters.ipmi:IpmiMeter",
    "redfish": "llenergymeasure.energy.meters.redfish:RedfishMeter",
    "estimate": "llenergymeasure.energy.meters.estimate:EstimateMeter",
}


class Part(Protocol):
    """A device of a meter that can be read by itself, in a thread of its own.

    `domains` are the names of those whose absence from a read is a gap; `period_s` is how often to read it,
    or None for densely in silences and now and then else; `driver_cpu_ns` what its reads have spent in the
    driver.
    """

    @property
    def domains(self) -> Sequence[str]: ...

    @property
    def period_s(self) -> float | None: ...

    @property
    def driver_cpu_ns(self) -> int: ...

    def sample(self) -> Sequence[Sample]:
        """Read every quantity once. EnergyError with the reason where the device gives nothing at all."""


@runtime_checkable
class Elsewhere(Part, Protocol):
    """The part of a meter whose reads happen on another host and arrive later, with their own times.

    A read takes what has arrived. `dense` and `edge` are passed on; when `catch_up` returns, all up to now
    has arrived, or the host is lost. `gaps` are those that have ended since the last call, or with
    `open_until_ns` the one that has not; `round_trips` is what its clock has shown since the last call.
    """

    def dense(self, wanted: bool, /) -> None: ...

    def edge(self) -> None: ...

    def catch_up(self) -> None: ...

    def gaps(self, *, open_until_ns: int | None = None) -> Sequence[Gap]: ...

    def round_trips(self) -> Sequence[RoundTrip]: ...


class Meter(AbstractContextManager[Any], Protocol):
    """Reads energy or power. A context manager: devices are opened on entry and closed on exit.

    It is opened, read and closed in different threads. A meter of several devices may also offer `parts()`,
    a sequence of `Part` that together read what `sample` reads; a meter without it is one part. It may count
    in `driver_cpu_ns` what its reads spend in the driver, and say in `period_s` how often to read it.
    """

    def why_unavailable(self) -> str | None:
        """One sentence with the way out (such as the exact command that grants access), or None."""

    def domains(self) -> Sequence[Domain]:
        """What it sees, known once it is open; probed by reading, not looked up by architecture."""

    def sample(self) -> Sequence[Sample]:
        """Read every quantity of every domain once, batched. A field that fails is left out, never 0."""
