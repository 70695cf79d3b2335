"""Where are the tools to compare with, each unmodified in an environment of its own?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = {"zeus": "zeus==0.16.*", "codecarbon": "codecarbon==3.3.*"}


@dataclass(frozen=True, slots=True)
class Peer:
    """An installed tool, or in `reason` why there is none."""

    name: str
    python: Path | None = None
    version: str | None = None
    reason: str | None = None


def install(directory: Path, requirements: Mapping[str, str] = REQUIREMENTS) -> dict[str, Peer]:
    """Each peer with all that it requires, from the package index, once; kept in `directory`."""
    return {name: _install(directory / name, name, requirement) for name, requirement in requirements.items()}


def _install(venv: Path, name: str, requirement: str) -> Peer:
    python = venv / "bin" / "python"
    make = [sys.executable, "-m", "venv", str(venv)]
    fill = [str(python), "-m", "pip", "install", "--quiet", *requirement.split()]
    for step in (fill,) if python.exists() else (make, fill):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            return Peer(name, reason=f"{requirement} can't be installed: {_last(done.stderr or done.stdout)}")
    version = subprocess.run(
        [str(python), "-c", f"from importlib.metadata import version; print(version({name!r}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Peer(name, python, version.stdout.strip())


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
