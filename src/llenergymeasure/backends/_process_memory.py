"""How much memory did this process hold at most?"""

from __future__ import annotations

import sys
from pathlib import Path


def reset_resident_peak() -> bool:
    """Forget the peak of resident memory so far; False where the platform can't."""
    try:
        # 5 sets the high-water mark of resident memory to its present value: proc_pid_clear_refs(5).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_peak(*, was_reset: bool) -> tuple[int | None, str | None]:
    """Peak bytes of resident memory, files that are mapped included, and where they were read."""
    since = "since the reset" if was_reset else "since the process began"
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "ru_maxrss, since the process began"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024, f"VmHWM of the worker, {since}"
    return None, None
