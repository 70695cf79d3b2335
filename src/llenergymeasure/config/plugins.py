"""What do other packages bring through entry points, and whose fault is it when that breaks?"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from llenergymeasure.exceptions import BackendError, ConfigError, EnergyError, LLEMError

ASK = "install a version that fits this llem, or ask its author; -v shows the traceback"


@dataclass(frozen=True, slots=True)
class Group:
    """One kind of plug-in: the group of its entry points, what one is called, and a broken one's error."""

    name: str
    noun: str
    error: type[LLEMError]

    def names(self) -> set[str]:
        return set(entry_points(group=self.name).names)

    def load(self, name: str) -> Any:
        """What the plug-in of that name points to, None where there is no such plug-in.

        ConfigError where two packages bring one; the group's error where it can't be imported.
        """
        points = self._points(name)
        if len(points) > 1:
            packages = " and ".join(map(self._described, points))
            raise ConfigError(
                f"two {self.noun}s have one name: {packages}", hint="uninstall one of the packages"
            )
        with self.blamed(name, "can't be loaded"):
            return points[0].load() if points else None

    def hidden_by(self, own: Collection[str]) -> dict[str, str]:
        """The plug-ins, by what they point to, that are never used: llem has their name itself."""
        names = sorted(self.names() & set(own))
        return {
            point.value: f"{self._described(point)} has the name of one of llem's own, which is used instead"
            for name in names
            for point in self._points(name)
        }

    @contextmanager
    def blamed(self, name: str, what: str) -> Iterator[None]:
        """Around code of the plug-in: whatever it raises becomes an error that says whose it is.

        What it prints is talk: stdout holds the result and nothing else.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except LLEMError:
            raise
        # A plug-in is other people's code, which may raise anything; a script may even exit.
        except (Exception, SystemExit) as error:
            from pydantic import ValidationError

            if isinstance(error, ValidationError):
                raise
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise self.error(f"{self.described(name)} {what}: {said}", hint=ASK) from error

    def described(self, name: str) -> str:
        points = self._points(name)
        return self._described(points[0]) if points else f"the {self.noun} {name!r}"

    def _described(self, point: EntryPoint) -> str:
        package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
        return f"the {self.noun} {point.name!r} ({point.value}{package})"

    def _points(self, name: str) -> list[EntryPoint]:
        # The same package may lie on the path twice, as an editable install beside its build.
        return list({point.value: point for point in entry_points(group=self.name, name=name)}.values())


BACKENDS = Group("llenergymeasure.backends", "backend", BackendError)
METERS = Group("llenergymeasure.meters", "meter", EnergyError)
DATASETS = Group("llenergymeasure.datasets", "dataset", ConfigError)
