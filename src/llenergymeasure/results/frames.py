"""Which library makes a data frame of rows?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from llenergymeasure.exceptions import ResultError

# The first one goes first.
LIBRARIES = ("pandas", "polars")


def frame(rows: Iterable[Mapping[str, object]], libraries: Sequence[str] = LIBRARIES) -> Any:
    """A data frame of pandas or polars: of the one that the program has imported, else that is installed."""
    found = sorted((name for name in libraries if find_spec(name)), key=lambda name: name not in sys.modules)
    if not found:
        raise ResultError(
            f"a data frame needs {' or '.join(libraries)}, and neither is installed",
            hint="pip install pandas, or: pip install polars",
        )
    library = import_module(found[0])
    # Columns that are empty in the first rows of polars would be taken for ones without numbers.
    more = {"infer_schema_length": None} if found[0] == "polars" else {}
    return library.DataFrame(list(rows), **more)
