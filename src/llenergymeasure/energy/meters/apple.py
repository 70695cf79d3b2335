"""Can a Mac's energy be read?"""

from __future__ import annotations

import platform
from contextlib import ExitStack
from typing import NoReturn

from llenergymeasure.energy.meters.device import DeviceMeter
from llenergymeasure.exceptions import EnergyError


class AppleMeter(DeviceMeter):
    """Says why not: macOS shows power to root only, by `powermetrics`, and documents no other way.

    The private library IOReport shows it without root, but its calls are undocumented and change with the
    system: any update may break it, or make it mislead. `system` is `platform.system()`.
    """

    def __init__(self, *, system: str | None = None) -> None:
        super().__init__()
        self._system = system or platform.system()

    def _open(self, stack: ExitStack) -> NoReturn:  # noqa: ARG002  what every meter's takes
        if self._system != "Darwin":
            raise EnergyError(f"Apple power readings need macOS; this machine runs {self._system}")
        raise EnergyError(
            "macOS shows the power of its chips to root only (sudo powermetrics), and llem does not run as "
            "root; use the power model instead: --meter estimate"
        )
