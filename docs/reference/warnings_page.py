"""Print `warnings.md`, the page beside this file."""

from __future__ import annotations

import sys

from llenergymeasure.analysis.codes import INVALIDATING, MEANINGS
from llenergymeasure.records import REMEDIES, WarningCode

_INTRODUCTION = """# Warnings

A result lists what weakens its numbers: `warnings[].code` is one of the codes below, with what was seen and
what to do about it. The list is closed. This page is made by `python docs/reference/warnings_page.py`.

Those that say so also set `energy.valid` to false and stand in `energy.reasons`, since they make the joules
wrong by an amount that can't be stated. The numbers stay in the file, and `llem compare --fail-above` refuses
to judge by them. All others leave the energy valid: they widen it, name the state that it holds for, or say
what could not be checked.

A field that a driver does not give is unknown, which is not the same as nothing found. What is unknown of a
device stands in `notes`; an unknown list of processes raises `cannot_exclude_foreign_processes`.
"""


def as_markdown() -> str:
    return _INTRODUCTION + "".join(_section(code, remedy) for code, remedy in REMEDIES.items())


def _section(code: WarningCode, remedy: str) -> str:
    parts = [f"## `{code}`", MEANINGS[code]]
    if code in INVALIDATING:
        parts.append("With it the energy is not valid.")
    return "\n" + "\n\n".join([*parts, f"What to do: {remedy}."]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
