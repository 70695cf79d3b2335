"""The plain baseline: read the energy counter before and after, and subtract."""

from __future__ import annotations

import pynvml
from windows import measure

pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)


def read_j() -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


measure(read_j, lambda before_j: read_j() - before_j)
