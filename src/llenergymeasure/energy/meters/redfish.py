"""What does the management controller say of the host's power, by Redfish?"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from llenergymeasure.energy.meters.bmc import REDFISH, host_device, milliwatts, password, refuse_credentials
from llenergymeasure.energy.meters.calibration import SensorFiles
from llenergymeasure.energy.meters.device import Device, DeviceMeter
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain

_ANSWER_S = 10.0
_CHASSIS = "/redfish/v1/Chassis"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class RedfishMeter(DeviceMeter):
    """The power of a chassis by the resources that DMTF's standard has for it: EnvironmentMetrics and
    PowerSubsystem (DSP8010 since 2020.4), else the older Power.

    LLEM_METER_REDFISH_URL is the controller's address (https://bmc), LLEM_METER_REDFISH_USER and
    LLEM_METER_REDFISH_PASSWORD (or the first line of LLEM_METER_REDFISH_PASSWORD_FILE) the credentials,
    LLEM_METER_REDFISH_CHASSIS which of several chassis is this machine, LLEM_METER_REDFISH_CA a certificate
    to trust, as most controllers sign their own.
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

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:  # noqa: ARG002  nothing to close
        service = _Service(self._environ)
        path = self._found(service)
        device, domain = host_device(
            "redfish",
            lambda: milliwatts(_watts(service, path)),
            environ=self._environ,
            files=self._files,
            clock=self._clock,
        )
        self.notes = (f"by {path}",)
        return [device], [domain]

    def _found(self, service: _Service) -> str:
        """The resource of the only chassis that says its power, or of the one that was named."""
        name = self._environ.get(f"{REDFISH}_CHASSIS")
        members = [f"{_CHASSIS}/{name}"] if name else list(_links(service.get(_CHASSIS).get("Members")))
        refused: list[str] = []
        found = [path for member in members for path in _sources(service, member, refused)]
        chassis = {path.removeprefix(f"{_CHASSIS}/").partition("/")[0] for path in found}
        if not found:
            why = f" ({'; '.join(dict.fromkeys(refused))})" if refused else ""
            raise EnergyError(f"no chassis of {service.url} says its power{why}")
        if len(chassis) > 1:
            raise EnergyError(
                f"several chassis of {service.url} say their power ({', '.join(sorted(chassis))})",
                hint=f"name this machine's: {REDFISH}_CHASSIS",
            )
        return found[0]


class _Service:
    """One controller's address and credentials, which no message holds."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.url = (environ.get(f"{REDFISH}_URL") or "").rstrip("/")
        parts = urllib.parse.urlsplit(self.url)
        if not self.url:
            raise EnergyError("no BMC is named", hint=f"{REDFISH}_URL=https://… is its address")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
            # The address itself may hold a password.
            raise EnergyError(
                f"{REDFISH}_URL is not an address of a BMC",
                hint="such as https://bmc.example, without credentials",
            )
        user = environ.get(f"{REDFISH}_USER")
        self._headers = {"Accept": "application/json"}
        if user is not None:
            if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
                raise EnergyError(f"{self.url} would send the password in the clear", hint="use https")
            both = f"{user}:{password(REDFISH, environ) or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(both).decode()}"
        try:
            context = ssl.create_default_context(cafile=environ.get(f"{REDFISH}_CA"))
        except OSError as error:
            raise EnergyError(f"{REDFISH}_CA can't be read: {error}") from error
        # Controllers are on this network: a proxy of the environment is not asked.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )

    def get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, headers=self._headers)  # noqa: S310  checked above
        try:
            with self._opener.open(request, timeout=_ANSWER_S) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in {401, 403}:
                refuse_credentials(REDFISH, f"the BMC at {self.url}")
            raise _StatusError(f"{self.url}{path} answers {error.code}") from error
        except TimeoutError as error:
            raise EnergyError(f"{self.url} did not answer within {_ANSWER_S:.0f} s") from error
        # What is no HTTP, breaks off, or is nested without an end.
        except (OSError, ValueError, http.client.HTTPException, RecursionError) as error:
            raise EnergyError(f"{self.url}{path} can't be read: {error}", hint=_hint(error)) from error
        if not isinstance(said, dict):
            raise EnergyError(f"{self.url}{path} is no Redfish resource")
        return said


class _StatusError(EnergyError):
    """The controller has no such resource, or not now."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Credentials go to the address that was named, and nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


def _hint(error: Exception) -> str | None:
    is_untrusted = "certificate" in str(error).lower()
    return f"save the BMC's certificate and name it: {REDFISH}_CA" if is_untrusted else None


def _sources(service: _Service, member: str, refused: list[str]) -> Iterator[str]:
    """The resources of a chassis that say its power, best first; why others do not goes to `refused`."""
    try:
        chassis = service.get(member)
    except _StatusError as error:
        # Controllers list drawers that are empty or switched off.
        refused.append(error.message)
        return
    for link in ("EnvironmentMetrics", "Power", "PowerSubsystem"):
        for path in _links([chassis.get(link)]):
            try:
                milliwatts(_watts(service, path))
            except EnergyError as error:
                refused.append(error.message)
                continue
            yield path


def _watts(service: _Service, path: str) -> object:
    """What a resource says of the whole chassis; a sum of power supplies where it is a PowerSubsystem."""
    said = service.get(path)
    if isinstance(reading := said.get("PowerWatts"), dict):
        return reading.get("Reading")
    if isinstance(controls := said.get("PowerControl"), list):
        # Members after the first are of processors, memory and the like (DSP2046, Power).
        return next((one.get("PowerConsumedWatts") for one in controls if isinstance(one, dict)), None)
    supplies = [service.get(one) for one in _links([said.get("PowerSupplies")])]
    inputs: list[object] = []
    for supply in [one for group in supplies for one in _links(group.get("Members"))]:
        for metrics in _links([service.get(supply).get("Metrics")]):
            power = service.get(metrics).get("InputPowerWatts")
            inputs.append(power.get("Reading") if isinstance(power, dict) else None)
    # One that does not say makes the sum unknown.
    numbers = [one for one in inputs if isinstance(one, int | float) and not isinstance(one, bool)]
    return sum(numbers) if numbers and len(numbers) == len(inputs) else None


def _links(values: object) -> Iterator[str]:
    for one in values if isinstance(values, list) else ():
        if isinstance(one, dict) and isinstance(path := one.get("@odata.id"), str) and path.startswith("/"):
            yield path
