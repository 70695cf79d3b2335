"""What does a file of the kernel say, where it can be read at all?"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def text(path: Path) -> str:
    """What is in it; empty where it can't be read, as in a container that hides it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a whole number (`name 12`, `name: 12 kB`); empty where it can't be read."""
    found = {}
    for line in text(path).splitlines():
        name, *values = line.replace(":", " ", 1).split()[:2] or [""]
        if values and values[0].isdecimal():
            found[name] = int(values[0])
    return found


def number(path: Path) -> int | None:
    """A whole number that is all there is in it."""
    found = text(path).strip()
    return int(found) if found.removeprefix("-").isdecimal() else None
