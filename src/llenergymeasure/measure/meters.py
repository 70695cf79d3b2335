"""Which meters see a run? Those of this host, or one that sees the simulated device of the parent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.selection import Selection, choose_meters
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain

if TYPE_CHECKING:
    # It brings the protocol, which what only asks for meters does not need.
    from llenergymeasure.measure.harness import Phase

# More than any block has passes; what is left of them is cut off at its end.
_LEVELS = 512


class FollowedDevice:
    """An NVML device whose watts are set by what the run does.

    A run's own cost is drawn when it loads, with `run_scatter`; in a block the level changes after every
    `passes.seconds`, with `scatter`.
    """

    def __init__(self, config: ExperimentConfig, *, clock: Clock, run: int = 1) -> None:
        # A board without a model is for one engine alone, and no other run waits for its import.
        from llenergymeasure.simulation.device import SimulatedNvml

        self._config, self._clock = config, clock
        # each run draws anew, as another process does
        self._random = random.Random(f"{config.random_seed} {run}")  # noqa: S311  a simulation, not a secret
        settings = config.simulated
        self._active_w = settings.active_w * max(0.0, self._random.gauss(1.0, settings.run_scatter))
        self.nvml = SimulatedNvml(clock, idle_w=settings.idle_w, counter_step_s=settings.counter_step_s)

    def enter(self, phase: Phase) -> None:
        settings, power = self._config.simulated, self.nvml.gpus[0].power
        now_ns = self._clock.monotonic_ns()
        power.cut(now_ns)
        if phase in {"full", "prefill"}:
            for number in range(_LEVELS):
                drawn = max(0.0, self._random.gauss(1.0, settings.scatter))
                power.set(now_ns + round(number * self._config.passes.seconds * 1e9), self._active_w * drawn)
            return
        levels = {"cooling": settings.idle_w, "bare": settings.idle_w, "warm_up": self._active_w}
        power.set(now_ns, levels.get(phase, settings.context_w))


def meters_for(
    config: ExperimentConfig,
    *,
    processes: Callable[[], Sequence[int]],
    device: FollowedDevice | None,
    hosts_must_answer: bool = True,
) -> Selection:
    """The meters of this host, or the one meter that sees the simulated `device`, and those of other hosts.

    EnergyError where they can't see what `config.energy` asks for.
    """
    if not (hosts := config.energy.hosts):
        return _meters_here(config, processes=processes, device=device)
    # What reaches another host takes its time to import, and few runs have one.
    from llenergymeasure.measure.hosts import HostMeter, with_hosts

    energy = config.energy
    if device is None:
        # The work may be on other hosts alone: then theirs have to read what was asked for.
        anything = energy.model_copy(update={"boundary": "auto"})
        config = config.model_copy(update={"energy": anything})
    try:
        chosen = _meters_here(config, processes=processes, device=device)
    except EnergyError:
        # Nothing is measured here; where that is asked for, other hosts may do.
        if not (energy.require_measured and energy.meter == "auto" and isinstance(energy.gpus, str)):
            raise
        found = with_hosts(Selection((), "measured", ()), hosts, must_answer=hosts_must_answer)
        if not found.meters:
            raise
    else:
        found = with_hosts(chosen, hosts, must_answer=hosts_must_answer)
    # The GPU of a simulated device is read in any case, and its domain is not known here.
    if device is None or energy.boundary not in {"auto", "gpu"}:
        others = [one for meter in found.meters if isinstance(meter, HostMeter) for one in meter.domains()]
        _require_boundary(found.domains, others, energy.boundary)
    return found


def _require_boundary(here: Sequence[Domain], others: Sequence[Domain], boundary: str) -> None:
    """EnergyError where neither all hosts together nor the other hosts read it."""
    if boundary == "auto" or within([*here, *others], boundary) or within(others, boundary):
        return
    seen = ", ".join(domain.name for domain in (*here, *others)) or "nothing"
    raise EnergyError(
        f"energy.boundary is {boundary}, which the hosts do not read ({seen} is read)",
        hint="llem doctor on each host shows what its meters need; or --set energy.boundary=auto",
    )


def _meters_here(
    config: ExperimentConfig, *, processes: Callable[[], Sequence[int]], device: FollowedDevice | None
) -> Selection:
    if device is None:
        return choose_meters(config.energy, processes=processes)
    if config.energy.meter not in {"auto", "nvml"}:
        raise EnergyError(
            f"the simulated backend has a device of its own; the meter {config.energy.meter!r} can't see it",
            hint="leave the meter at auto",
        )
    if (boundary := config.energy.boundary) not in {"auto", "gpu"}:
        raise EnergyError(
            f"the simulated device is a GPU alone: energy.boundary={boundary} can't be read of it",
            hint="leave energy.boundary at auto",
        )
    # CUDA_VISIBLE_DEVICES is about the GPUs of this host.
    gpus = "all" if config.energy.gpus == "auto" else config.energy.gpus
    meter = NvmlMeter(device.nvml, gpus=gpus, processes=processes)
    with meter:
        # Its domains are left out: they are this process's own, and no other run can disturb them.
        return Selection(meters=(meter,), method="measured", refused=())
