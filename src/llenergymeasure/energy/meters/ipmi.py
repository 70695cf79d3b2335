"""What does the management controller say of the host's power, by IPMI?"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from llenergymeasure.energy.meters.bmc import (
    IPMI,
    has_controller,
    host_device,
    milliwatts,
    password,
    refuse_credentials,
)
from llenergymeasure.energy.meters.calibration import SensorFiles
from llenergymeasure.energy.meters.device import Device, DeviceMeter
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain

# To find out whether it answers, and within a run, where other meters do not wait for it.
_FIRST_ANSWER_S = 8.0
_ANSWER_S = 10.0
# What vendors call the sensor of the whole machine (Dell, HPE, Supermicro, Lenovo, Inspur, Gigabyte).
_WHOLE = re.compile(
    r"pwr consumption|power meter|(total|sys(tem)?|node|chassis|input|psu? total)[ _.-]*(input[ _.-]*)?"
    r"(pwr|power)([ _.-]*(in|input|consumption|total))?|power[ _.-]*(consumption|input)|dcmi power",
    re.IGNORECASE,
)


class IpmiMeter(DeviceMeter):
    """The host's power by DCMI, else by the sensor of the whole machine, through the program `ipmitool`.

    The controller of this machine, or over the network that of LLEM_METER_IPMI_HOST with LLEM_METER_IPMI_USER
    and LLEM_METER_IPMI_PASSWORD (or the first line of LLEM_METER_IPMI_PASSWORD_FILE), which reach ipmitool by
    its environment. LLEM_METER_IPMI_PORT and LLEM_METER_IPMI_CIPHER (a cipher suite, for controllers that
    list none) are seldom needed; LLEM_METER_IPMI_SENSOR names a sensor to read.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        files: SensorFiles | None = None,
        clock: Clock = time,
    ) -> None:
        super().__init__()
        self._environ = os.environ if environ is None else environ
        self._files = files
        self._clock = clock
        self._sensor: str | None = None

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:  # noqa: ARG002  nothing to close
        if shutil.which("ipmitool") is None:
            raise EnergyError("the program ipmitool is missing", hint="install it: apt install ipmitool")
        host = self._environ.get(f"{IPMI}_HOST")
        if host is None and not has_controller():
            raise EnergyError(
                "this machine shows no BMC (/dev/ipmi0 does not exist)",
                hint=f"modprobe ipmi_devintf ipmi_si, or name one on the network: {IPMI}_HOST",
            )
        self._sensor = self._environ.get(f"{IPMI}_SENSOR")
        try:
            self._read(_FIRST_ANSWER_S)
        except _NoDcmiError:
            self._sensor = self._find_sensor()
            self._read(_FIRST_ANSWER_S)
        self.notes = () if self._sensor is None else (f"by the sensor {self._sensor!r}",)
        device, domain = host_device(
            "ipmi",
            lambda: self._read(_ANSWER_S),
            environ=self._environ,
            files=self._files,
            clock=self._clock,
        )
        return [device], [domain]

    def _read(self, seconds: float) -> int:
        if self._sensor is not None:
            return milliwatts(self._reading(self._sensor, seconds))
        said = self._asked(["dcmi", "power", "reading"], seconds, missing=_NoDcmiError)
        found = re.search(r"Instantaneous power reading:\s*(-?\d+)\s*Watts", said)
        if found is None:
            raise _NoDcmiError("the BMC knows no DCMI power reading")
        return milliwatts(int(found[1]))

    def _reading(self, sensor: str, seconds: float) -> float | None:
        rows = csv.reader(self._asked(["-c", "sensor", "reading", sensor], seconds).splitlines())
        return next((_number(row[1]) for row in rows if len(row) > 1 and row[0].strip() == sensor), None)

    def _find_sensor(self) -> str:
        """EnergyError naming those there are where none of them is surely the whole machine."""
        rows = csv.reader(self._asked(["-c", "sdr", "list", "full"], _FIRST_ANSWER_S).splitlines())
        watts = [row[0].strip() for row in rows if len(row) > 2 and row[2].strip() == "Watts"]
        whole = [name for name in watts if _WHOLE.fullmatch(name)]
        if len(whole) == 1 or len(watts) == 1:
            return (whole or watts)[0]
        if not watts:
            raise EnergyError("the BMC offers neither a DCMI power reading nor a sensor in watts")
        raise EnergyError(
            f"the BMC has several sensors in watts ({', '.join(whole or watts)}); which is the machine's?",
            hint=f"name the one of the whole machine: {IPMI}_SENSOR",
        )

    def _asked(
        self, question: Sequence[str], seconds: float, *, missing: type[EnergyError] = EnergyError
    ) -> str:
        """What ipmitool prints. The password is in its environment, never on its command line."""
        environ, where = dict(self._environ), "the BMC of this machine"
        environ.setdefault("PATH", os.defpath)
        command = ["ipmitool"]
        if (host := self._environ.get(f"{IPMI}_HOST")) is not None:
            where = f"the BMC at {host}"
            command += ["-I", "lanplus", "-H", host, "-E"]
            for option, name in (("-U", "USER"), ("-p", "PORT"), ("-C", "CIPHER")):
                command += [option, value] if (value := self._environ.get(f"{IPMI}_{name}")) else []
            environ["IPMI_PASSWORD"] = password(IPMI, self._environ) or ""
        try:
            done = subprocess.run(
                [*command, *question],
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EnergyError(f"{where} did not answer within {seconds:.0f} s") from error
        except OSError as error:
            raise EnergyError(f"ipmitool can't be started: {error}") from error
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split())
        if secret := environ.get("IPMI_PASSWORD"):
            said = said.replace(secret, "…")
        if re.search(r"RAKP|unauthori[sz]ed|invalid (user|password)|authentication", said, re.IGNORECASE):
            refuse_credentials(IPMI, where)
        if re.search(r"open device|/dev/ipmi", said):
            raise EnergyError(
                f"{where} can be read by root only", hint="sudo chmod a+rw /dev/ipmi0  (until the next boot)"
            )
        if "unable to establish" in said.lower():
            raise EnergyError(
                f"{where} can't be reached, or refuses the user or the password",
                hint=f"check {IPMI}_HOST, {IPMI}_USER and {IPMI}_PASSWORD",
            )
        raise missing(f"{where}: ipmitool {' '.join(question)} failed: {said or done.returncode}")


class _NoDcmiError(EnergyError):
    """The controller does not know that question."""


def _number(said: str) -> float | None:
    try:
        return float(said)
    except ValueError:
        return None
