"""Where does llem keep what it can make again?"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """`LLEM_CACHE_DIR`, else the user's cache; absolute, and not made yet."""
    named = os.environ.get("LLEM_CACHE_DIR") or platformdirs.user_cache_path("llenergymeasure")
    return Path(named).expanduser().absolute()
