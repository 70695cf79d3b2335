"""What do all ways to a server's management controller (BMC) have in common?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from llenergymeasure.energy.meters.calibration import SensorFiles, characterised, recall
from llenergymeasure.energy.meters.device import Device, Question
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity

# What ENERGY STAR asks of a server's own figure of its input power (Program Requirements for Computer Servers
# 3.0, section 5): ± 5 %, or ± 10 W for each power supply where that is more; sampled every 10 s at the least;
# a rolling average over 30 s at the most. BMCs that are faster do not say so.
_GAIN = (0.95, 1.05)
_OFFSET_W = (-20.0, 20.0)
_STEP_S = 10.0
_WINDOW_S = 30.0
_AVERAGING = "LLEM_METER_BMC_AVERAGING_S"

# What the environment's variables of each way begin with.
IPMI, REDFISH = "LLEM_METER_IPMI", "LLEM_METER_REDFISH"
_DEVICES = tuple(map(Path, ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")))

_PERIOD_S = 1.0


def has_controller() -> bool:
    """Whether the kernel shows this machine's own."""
    return any(device.exists() for device in _DEVICES)


def host_device(
    name: str,
    ask: Callable[[], int],
    *,
    environ: Mapping[str, str],
    files: SensorFiles | None,
    clock: Clock,
) -> tuple[Device, Domain]:
    """The host's power by `ask`, which gives milliwatts or raises EnergyError.

    What the controller averages over is what was found out about it, else what the environment's
    LLEM_METER_BMC_AVERAGING_S states, else the most that it may be.
    """
    window_s = _averaging_s(environ)
    step_s = min(_STEP_S, window_s)
    power = Quantity(
        "power_average",
        f"{name}.power",
        "W",
        1e-3,
        step_ns=round(step_s * 1e9),
        window_ns=round(window_s * 1e9),
    )
    power = characterised(power, recall("host", name, files=files))
    device = Device(
        [Question("host", power, ask)], errors=(EnergyError,), silent="the BMC gives no power", clock=clock
    )
    device.period_s = _PERIOD_S
    return device, Domain("host", "host", (power,), systematic_gain=_GAIN, systematic_offset_w=_OFFSET_W)


def milliwatts(watts: object) -> int:
    """A controller that does not know reads 0, −1 or nothing; no machine that answers draws that."""
    if isinstance(watts, bool) or not isinstance(watts, int | float) or not 0 < watts < float("inf"):
        raise EnergyError(f"the BMC's sensor reads {watts!r} W, which can't be")
    return round(watts * 1000)


def password(prefix: str, environ: Mapping[str, str]) -> str | None:
    """<prefix>_PASSWORD, or the first line of the file that <prefix>_PASSWORD_FILE names."""
    if (path := environ.get(f"{prefix}_PASSWORD_FILE")) is not None:
        try:
            return Path(path).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise EnergyError(f"{prefix}_PASSWORD_FILE: {path} can't be read") from error
    return environ.get(f"{prefix}_PASSWORD")


def refuse_credentials(prefix: str, where: str) -> NoReturn:
    """The BMC at `where` did not take them; they are shown nowhere."""
    raise EnergyError(
        f"{where} refuses the user or the password",
        hint=f"{prefix}_USER, and {prefix}_PASSWORD or {prefix}_PASSWORD_FILE (its first line) hold them",
    )


def _averaging_s(environ: Mapping[str, str]) -> float:
    said = environ.get(_AVERAGING)
    if said is None:
        return _WINDOW_S
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise EnergyError(
            f"{_AVERAGING}={said!r} is not a number of seconds", hint="such as 5, by the BMC's manual"
        )
    return seconds
