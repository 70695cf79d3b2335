"""How much memory did these processes hold at most?"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def reset_resident_peak(others: Sequence[int] = ()) -> bool:
    """Forget the peak of resident memory so far, of this process and the `others` (pids); False where the
    platform can't.
    """
    try:
        for pid in (os.getpid(), *others):
            # 5 sets the high-water mark of resident memory to its present value: proc_pid_clear_refs(5).
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_peak(others: Sequence[int] = (), *, was_reset: bool) -> tuple[int | None, str | None]:
    """Peak bytes of resident memory, files that are mapped included, and where they were read: the sum of
    this process's peak and those of the `others`. None where one can't be read.
    """
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "ru_maxrss, since the process began"
    marks = [_high_water_mark(pid) for pid in (os.getpid(), *others)]
    known = [mark for mark in marks if mark is not None]
    if len(known) < len(marks):
        return None, None
    whose = f"the worker and the engine's {len(others)} processes, summed" if others else "the worker"
    return sum(known), f"VmHWM of {whose}, since the {'reset' if was_reset else 'process began'}"


def _high_water_mark(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
