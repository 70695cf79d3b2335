"""On which GPUs do processes work, by what the kernel's graphics drivers show of each of their files?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llenergymeasure.energy.meters.gpu_health import in_trees

# Those whose GPUs the kernel shows under hwmon, which knows them by PCI address.
_DRIVERS = frozenset({"amdgpu", "i915", "xe"})
# Whoever lists the GPUs opens each, and may be given a little memory there.
_LEAST_BYTES = 64 * 2**20
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FIELD = re.compile(r"^drm-(driver|pdev|\w+)(?:-(\S+))?:\s*(\S+) ?(\S*)$", re.MULTILINE)


def gpus_in_use(
    pids: Sequence[int], *, proc: Path = Path("/proc"), drm: Path = Path("/sys/class/drm")
) -> tuple[str, ...]:
    """PCI addresses of the GPUs on which a process in the trees of `pids` has computed or holds memory.

    The fields are those of the kernel's "DRM client usage stats"; a process that can't be looked into uses
    none.
    """
    if next(drm.glob("renderD*"), None) is None:
        return ()
    roots, found = frozenset(pids), dict[str, None]()
    for process in proc.glob("[0-9]*"):
        if in_trees(int(process.name), roots):
            try:
                texts = [one.read_text() for one in (process / "fdinfo").iterdir()]
            except OSError:
                continue
            found |= {address: None for text in texts if (address := _address(text)) is not None}
    return tuple(found)


def _address(text: str) -> str | None:
    """Of the GPU that an open file is at work on."""
    address, driver, is_used = None, "", False
    for what, where, value, unit in _FIELD.findall(text):
        if what == "driver":
            driver = value
        elif what == "pdev":
            address = value
        elif not value.isdecimal():
            continue
        elif what in {"engine", "cycles"} and not where.startswith("capacity"):
            is_used |= int(value) > 0
        elif what in {"memory", "total", "resident"} and where.startswith(("vram", "local")):
            is_used |= int(value) * _UNITS.get(unit, 1) >= _LEAST_BYTES
    return address if is_used and driver in _DRIVERS else None
