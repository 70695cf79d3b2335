"""Which meters see a run?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.selection import Selection, choose_meters
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure.simulate import FollowedDevice


def meters_for(
    config: ExperimentConfig, *, processes: Callable[[], Sequence[int]], device: FollowedDevice | None
) -> Selection:
    """The meters of this host, or the one meter that sees the simulated `device`.

    EnergyError where they can't see what `config.energy` asks for.
    """
    if device is None:
        return choose_meters(config.energy, processes=processes)
    if config.energy.meter not in {"auto", "nvml"}:
        raise EnergyError(
            f"the simulated backend has a device of its own; the meter {config.energy.meter!r} can't see it",
            hint="leave the meter at auto",
        )
    meter = NvmlMeter(device.nvml, gpus=config.energy.gpus, processes=processes)
    with meter:
        # Its domains are left out: they are this process's own, and no other run can disturb them.
        return Selection(meters=(meter,), method="measured", refused=())
