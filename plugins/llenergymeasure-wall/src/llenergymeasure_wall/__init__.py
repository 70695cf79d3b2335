"""What does the machine take from the wall, by a metering plug on this network?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity, Sample

_URL, _SWITCH = "LLEM_METER_WALL_URL", "LLEM_METER_WALL_SWITCH"
_ANSWER_S = 5.0
# Both kinds of plug renew what they show once a second, a mean over that second.
_STEP_NS = 1_000_000_000
_MWH = 3.6
# Whether a counter moves fast enough to be of use is seen while it is tried.
_WATCH_S = 2.5
_LOOK_S = 0.25
# True = gain × read + offset. Neither Shelly nor Tasmota states a tolerance. Tuya, of whose make many of the
# plugs with Tasmota are, states 5 % for those whose metering chip gives pulses (BL0937, HLW8012) and 3 % for
# those with a serial one (developer.tuya.com, "Energy Metering"), as Shelly's are. The offset is a judgement.
_GAINS = {"shelly": (0.97, 1.03), "tasmota": (0.95, 1.05)}
_OFFSET_W = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """Watts, and milliwatt-hours since the plug was new where it counts them."""

    watts: float
    counted_mwh: int | None


class WallMeter:
    """The domain `wall`, by the plug at LLEM_METER_WALL_URL: one of Shelly's second generation or later (its
    RPC over HTTP; LLEM_METER_WALL_SWITCH is the number of the switch, 0 by default), or Tasmota.

    Nothing may hang on the plug but this machine.
    """

    period_s = 0.5

    def __init__(self, environ: Mapping[str, str] | None = None, *, clock: Clock = time) -> None:
        self._environ = os.environ if environ is None else environ
        self._clock = clock
        self._read: Callable[[], Reading] | None = None
        self._domain: Domain | None = None

    def why_unavailable(self) -> str | None:
        try:
            self._plug()
        except EnergyError as error:
            return f"{error.message}; {error.hint}" if error.hint else error.message
        return None

    def __enter__(self) -> Self:
        name, read = self._plug()
        power = Quantity("power_usage", f"{name}.power", "W", 1e-3, step_ns=_STEP_NS, window_ns=_STEP_NS)
        energy = Quantity("energy", f"{name}.energy", "J", _MWH, step_ns=_STEP_NS)
        counts = self._counts(read)
        self._domain = Domain(
            "wall",
            "wall",
            (energy, power) if counts else (power,),
            resolution_j=_MWH if counts else None,
            systematic_gain=_GAINS[name],
            systematic_offset_w=_OFFSET_W,
        )
        self._read = read
        return self

    def __exit__(self, *error: object) -> None:
        self._read = self._domain = None

    def domains(self) -> Sequence[Domain]:
        return () if self._domain is None else (self._domain,)

    def sample(self) -> Sequence[Sample]:
        if self._read is None or self._domain is None:
            raise EnergyError("the plug is not open")
        before_ns = self._clock.monotonic_ns()
        found = self._read()
        after_ns = self._clock.monotonic_ns()
        raw = {"power_usage": round(found.watts * 1000), "energy": found.counted_mwh}
        return [
            Sample("wall", quantity.name, before_ns, after_ns, value)
            for quantity in self._domain.quantities
            if (value := raw[quantity.name]) is not None
        ]

    def _plug(self) -> tuple[str, Callable[[], Reading]]:
        """Which kind it is, and how to read it; it has answered once."""
        if not (url := self._environ.get(_URL, "").rstrip("/")):
            raise EnergyError("no plug is named", hint=f"{_URL}=http://… is its address")
        switch = self._environ.get(_SWITCH, "0")
        if not switch.isdecimal():
            raise EnergyError(f"{_SWITCH}={switch!r} is no number of a switch", hint="0 is the first")
        kinds: dict[str, Callable[[], Reading]] = {
            "shelly": lambda: _shelly(_asked(url, f"/rpc/Switch.GetStatus?id={switch}")),
            "tasmota": lambda: _tasmota(_asked(url, "/cm?cmnd=Status%208")),
        }
        for name, read in kinds.items():
            try:
                read()
            except _UnknownError:
                continue
            return name, read
        raise EnergyError(
            f"{url} is neither a Shelly with switch {switch} nor a Tasmota that measures",
            hint="open it in a browser; another kind of plug needs a plug-in of its own",
        )

    def _counts(self, read: Callable[[], Reading]) -> bool:
        first, until_ns = read().counted_mwh, self._clock.monotonic_ns() + round(_WATCH_S * 1e9)
        while first is not None and self._clock.monotonic_ns() < until_ns:
            self._clock.sleep(_LOOK_S)
            if (now := read().counted_mwh) is not None and now > first:
                return True
        return False


def _shelly(said: Any) -> Reading:
    """Switch.GetStatus: `apower` in watts, `aenergy.total` in watt-hours."""
    try:
        watts, counter = said["apower"], said.get("aenergy", {}).get("total")
    except (KeyError, TypeError, AttributeError) as error:
        raise _UnknownError("no Shelly") from error
    return Reading(_power(watts), _count(counter, 1_000))


def _tasmota(said: Any) -> Reading:
    """Status 8: `Power` in watts, `Total` in kilowatt-hours."""
    try:
        energy = said["StatusSNS"]["ENERGY"]
        watts, counter = energy["Power"], energy.get("Total")
    except (KeyError, TypeError, AttributeError) as error:
        raise _UnknownError("no Tasmota that measures") from error
    return Reading(_power(watts), _count(counter, 1_000_000))


def _power(watts: object) -> float:
    if isinstance(watts, bool) or not isinstance(watts, int | float) or not 0 < watts < float("inf"):
        raise EnergyError(
            f"the plug reads {watts!r} W, which can't be while this machine runs",
            hint="see whether this is the machine's plug, and whether it is switched on",
        )
    return float(watts)


def _count(counter: object, scale: int) -> int | None:
    is_number = isinstance(counter, int | float) and not isinstance(counter, bool)
    return round(counter * scale) if is_number and 0 <= counter < 1e9 else None  # type: ignore[operator]


class _UnknownError(EnergyError):
    """The plug speaks another protocol."""


def _asked(url: str, path: str) -> Any:
    import http.client
    import urllib.error
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise EnergyError(f"{_URL} is no address of a plug", hint="such as http://192.168.1.40")
    # The plug is on this network: a proxy of the environment is not asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url + path, timeout=_ANSWER_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise EnergyError(
                f"{url} asks for a password, which this meter does not send",
                hint="turn authentication off in its settings while you measure",
            ) from error
        raise _UnknownError(f"{url} answers {error.code}") from error
    except TimeoutError as error:
        raise EnergyError(f"{url} did not answer within {_ANSWER_S:.0f} s") from error
    except OSError as error:
        raise EnergyError(f"{url} can't be reached: {error}") from error
    except (ValueError, http.client.HTTPException, RecursionError) as error:
        raise _UnknownError(f"{url} answers what is not JSON") from error
