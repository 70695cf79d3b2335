"""Which experiments are visited one after another on one server, and which server stands for a run?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from llenergymeasure.config.models import ExperimentConfig, identity
from llenergymeasure.study.plan import Experiment
from llenergymeasure.study.standing import Held, Said, held

SERVERS = "servers"
# Beside the options that the engine names: what is done with a model that is up.
_LOADS = ("load", "slo", "passes")


def visit_groups(experiments: Sequence[Experiment]) -> dict[str, tuple[int, ...]]:
    """The places of the experiments that a model can be visited with, by the hash of each; those that no
    other shares a model with are left out.
    """
    found: dict[str, list[int]] = {}
    for at, one in enumerate(experiments):
        if (key := _model_of(one.config)) is not None:
            found.setdefault(key, []).append(at)
    return {
        experiments[at].hash: tuple(places) for places in found.values() if len(places) > 1 for at in places
    }


def _model_of(config: ExperimentConfig) -> str | None:
    """What a model that outlives a run depends on; None where none does."""
    beside = config.engine.standing_beside
    if beside is None or config.runner.kind != "local":
        return None
    fields: dict[str, JsonValue] = {
        key: value for key, value in identity(config).items() if key not in _LOADS
    }
    options = fields.get(config.backend)
    if isinstance(options, dict):
        fields[config.backend] = {key: value for key, value in options.items() if key not in beside}
    return json.dumps(fields, sort_keys=True)


class Visits:
    """The server that stands now, if one does. A context manager; leaving it ends the server."""

    def __init__(self, groups: Mapping[str, tuple[int, ...]], folder: Path) -> None:
        self._groups, self._folder = groups, folder / SERVERS
        self._stack = ExitStack()
        self._at: tuple[tuple[int, ...], int] | None = None
        self._held: Held | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def group(self, experiment: Experiment) -> tuple[int, ...] | None:
        return self._groups.get(experiment.hash)

    def by_url(self, experiment: Experiment, repeat: int) -> ExperimentConfig | None:
        """The configuration with which a run uses the server of its visit, which is started where it does not
        stand; None for a run that needs none. ExperimentError where the server does not come up.
        """
        group = self.group(experiment)
        if group is None or self._at != (group, repeat) or self._held is None or not self._held.stands:
            self.leave()
        if group is None:
            return None
        if self._held is None:
            name = f"{group[0] + 1}-{repeat}"
            self._held = self._stack.enter_context(held(experiment.config, folder=self._folder, name=name))
            self._at = group, repeat
        asked = experiment.config
        values = asked.model_dump(mode="json", exclude_defaults=True)
        values[asked.backend] = {**values.get(asked.backend, {}), **self._held.options}
        return ExperimentConfig.model_validate(values)

    def why_ended(self) -> Said | None:
        """Why the server of a run that failed is gone; None where it stands, or there is none."""
        return None if self._held is None else self._held.why_ended()

    def leave(self) -> None:
        self._held = None
        self._stack.close()
