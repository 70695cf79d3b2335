"""What a meter must offer, and which meters there are."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from llenergymeasure.records import Domain, Sample

METERS = {
    "nvml": "llenergymeasure.energy.nvml:NvmlMeter",
    "rapl": "llenergymeasure.energy.rapl:RaplMeter",
    "estimate": "llenergymeasure.energy.estimate:EstimateMeter",
}


class Meter(Protocol):
    """Reads energy or power. A context manager: devices are opened on entry and closed on exit."""

    def why_unavailable(self) -> str | None:
        """One sentence with the way out (such as the exact command that grants access), or None."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def domains(self) -> Sequence[Domain]:
        """What it sees, known once it is open; probed by reading, not looked up by architecture."""

    def sample(self) -> Sequence[Sample]:
        """Read every quantity of every domain once, batched. A field that fails is left out, never 0."""
