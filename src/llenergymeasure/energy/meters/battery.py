"""How much does a laptop draw from its battery?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from llenergymeasure.energy.meters.device import Device, DeviceMeter, Question
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity

ROOT = Path("/sys/class/power_supply")

# The gauge measures once a second (Smart Battery Data Specification 1.1, 5.1.9: Current is "the current being
# supplied", AverageCurrent a mean over a minute), and laptops' controllers pass it on every few seconds.
_STEP_NS = 4_000_000_000
_WINDOW_NS = 4_000_000_000
_PERIOD_S = 0.5
# The same specification (5.1.8 and 5.1.9): voltage to 1 % of the design's, current to 1 % of the capacity an
# hour, which is 1 W of 100 Wh. What is lost between cells and gauge is not in it.
_GAIN = (0.97, 1.03)
_OFFSET_W = (-1.0, 1.0)


class BatteryMeter(DeviceMeter):
    """The power of all batteries under `root` that discharge, as the power of the host.

    Refused while the machine is on mains, or a battery is charged: then it is not the battery that feeds it.
    """

    def __init__(self, root: Path | None = None, *, clock: Clock = time) -> None:
        super().__init__()
        self._root = root or ROOT
        self._clock = clock

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:  # noqa: ARG002  nothing to close
        if not has_battery(self._root):
            raise EnergyError(f"there is no battery under {self._root}")
        drawn_uw(self._root)
        power = Quantity("power_average", "battery.power", "W", 1e-6, step_ns=_STEP_NS, window_ns=_WINDOW_NS)
        device = Device(
            [Question("host", power, lambda: drawn_uw(self._root))],
            errors=(EnergyError,),
            silent="the battery says nothing of the host",
            clock=self._clock,
        )
        device.period_s = _PERIOD_S
        domain = Domain("host", "host", (power,), systematic_gain=_GAIN, systematic_offset_w=_OFFSET_W)
        return [device], [domain]


def has_battery(root: Path | None = None) -> bool:
    return bool(_batteries(root or ROOT))


def drawn_uw(root: Path) -> int:
    """Microwatts from all batteries together. EnergyError on mains, while one charges, or where none says."""
    for supply in _supplies(root):
        if _text(supply / "type") in {"Mains", "USB"} and _text(supply / "online") not in {"", "0"}:
            raise EnergyError(
                f"the machine is on mains ({supply.name}), so that its battery does not feed it",
                hint="unplug it to measure the host by its battery",
            )
    total = 0
    for battery in _batteries(root):
        status = _text(battery / "status")
        if status == "Charging":
            raise EnergyError(f"the battery {battery.name} is charging", hint="unplug the charger")
        if status == "Discharging":
            total += _microwatts(battery)
    if total <= 0:
        raise EnergyError(f"no battery under {root} is discharging")
    return total


def _microwatts(battery: Path) -> int:
    """As the kernel states it, or µV × µA. Some drivers give what flows out a minus."""
    power = _number(battery / "power_now")
    if power is None:
        volts, amperes = _number(battery / "voltage_now"), _number(battery / "current_now")
        power = None if volts is None or amperes is None else round(volts * amperes / 1e6)
    # −1 is how firmware says that it does not know.
    if power is None or power in {0, -1}:
        raise EnergyError(f"the battery {battery.name} does not say what it gives")
    return abs(power)


def _batteries(root: Path) -> list[Path]:
    """Those that feed the machine, not the ones of a mouse."""
    return [
        one
        for one in _supplies(root)
        if _text(one / "type") == "Battery"
        and _text(one / "scope") != "Device"
        and _text(one / "present") != "0"
    ]


def _supplies(root: Path) -> list[Path]:
    return sorted(root.glob("*"))


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
