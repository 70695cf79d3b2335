"""Can a Mac's energy be read?"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Domain, Sample


class AppleMeter:
    """Says why not: macOS shows power to root only, by `powermetrics`, and documents no other way.

    The private library IOReport shows it without root, but its calls are undocumented and change with the
    system; a measurement that may break or mislead with any update is none. `system` is `platform.system()`.
    """

    def __init__(self, *, system: str | None = None) -> None:
        self._system = system or platform.system()

    def why_unavailable(self) -> str:
        if self._system != "Darwin":
            return f"this is no Mac but {self._system}"
        return (
            "macOS shows the power of its chips to root only (sudo powermetrics), and llem does not run as "
            "root; the model of power stands in: --meter estimate"
        )

    def __enter__(self) -> Self:
        raise EnergyError(self.why_unavailable())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing was opened."""

    def domains(self) -> Sequence[Domain]:
        return ()

    def sample(self) -> Sequence[Sample]:
        return ()
