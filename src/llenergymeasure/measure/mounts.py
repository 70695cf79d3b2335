"""What of this host's disk does the worker in a container see?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.hub import hub_cache


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: Path
    writable: bool = False


def mounts(config: ExperimentConfig) -> tuple[Mount, ...]:
    """Everything of this host that the worker sees, at the path that it has here.

    Its home is a folder of llem's own, which is kept, so that what engines compile is compiled once. The
    caches of models stay read-only: files are fetched on the host.
    """
    cache, home = cache_dir(), Path.home()
    found = {home: Mount(cache / "container-home", home, writable=True)}
    found[cache] = Mount(cache, cache, writable=True)
    if hub_cache().is_dir():
        found[hub_cache()] = Mount(hub_cache(), hub_cache())
    for path in _named_files(config):
        found[path] = Mount(path, path)
    for text in config.runner.mounts:
        source, target, *rw = text.split(":")
        where = Path(source).expanduser().absolute()
        if not where.exists():
            raise ConfigError(f"runner.mounts: {where} does not exist")
        found[Path(target)] = Mount(where, Path(target), writable=rw == ["rw"])
    _make_mount_points(found[home], found)
    return tuple(found.values())


def _named_files(config: ExperimentConfig) -> Iterator[Path]:
    """What the configuration names on this disk, wherever in it: models, adapters, engines, prompts."""
    described = config.model_dump(mode="json", exclude={"output_dir", "runner"})
    for _, text in leaves(described, lists=True):
        name = text.removeprefix("random:") if isinstance(text, str) else ""
        if "/" not in name and "." not in name:
            continue
        path = Path(name).expanduser().absolute()
        if path != Path("/") and path.exists():
            yield path


def _make_mount_points(home: Mount, found: Mapping[Path, Mount]) -> None:
    """Folders for what is mounted inside the home: docker would make them as root, closed to the worker."""
    home.source.mkdir(parents=True, exist_ok=True)
    if Path.cwd().is_relative_to(home.target):
        (home.source / Path.cwd().relative_to(home.target)).mkdir(parents=True, exist_ok=True)
    for target, mount in found.items():
        if target == home.target or not target.is_relative_to(home.target):
            continue
        point = home.source / target.relative_to(home.target)
        if mount.source.is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
