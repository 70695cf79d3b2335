"""A cache of a test's own, in which the small model is converted already."""

from __future__ import annotations

from pathlib import Path

from llenergymeasure.config.places import cache_dir


def own_cache(folder: Path) -> Path:
    """A conversion takes half a minute, and its result is the same in every cache."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("gguf", "digests"):
        whole = cache_dir() / name
        whole.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(whole)
    return folder
