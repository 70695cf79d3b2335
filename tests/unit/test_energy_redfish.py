"""The host's power by Redfish, from a server that answers as the examples of DMTF's DSP2046 do."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llenergymeasure.energy.meters.redfish import RedfishMeter

PASSWORD = "sesame-of-the-bmc"
CHASSIS = "/redfish/v1/Chassis"


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def old_form(watts: object, name: str = "1U") -> dict[str, dict[str, Any]]:
    """The resource Power, deprecated since 2020.4 and still the most common."""
    at = f"{CHASSIS}/{name}"
    control = {"MemberId": "0", "Name": "System Input Power", "PowerConsumedWatts": watts}
    part = {"MemberId": "1", "Name": "CPU", "PhysicalContext": "CPU", "PowerConsumedWatts": 90}
    return {
        CHASSIS: {"Members": [_link(at)]},
        at: {"Id": name, "ChassisType": "RackMount", "Power": _link(f"{at}/Power")},
        f"{at}/Power": {"Id": "Power", "PowerControl": [control, part]},
    }


def new_form(watts: object, name: str = "1U") -> dict[str, dict[str, Any]]:
    at = f"{CHASSIS}/{name}"
    reading = {"DataSourceUri": f"{at}/Sensors/TotalPower", "Reading": watts}
    return {
        CHASSIS: {"Members": [_link(at)]},
        at: {"Id": name, "EnvironmentMetrics": _link(f"{at}/EnvironmentMetrics")},
        f"{at}/EnvironmentMetrics": {"PowerWatts": reading, "EnergykWh": {"Reading": 2_183}},
    }


def supplies_form(inputs: list[object]) -> dict[str, dict[str, Any]]:
    at = f"{CHASSIS}/1U/PowerSubsystem"
    found: dict[str, dict[str, Any]] = {
        CHASSIS: {"Members": [_link(f"{CHASSIS}/1U")]},
        f"{CHASSIS}/1U": {"Id": "1U", "PowerSubsystem": _link(at)},
        at: {"Id": "PowerSubsystem", "CapacityWatts": 2_000, "PowerSupplies": _link(f"{at}/PowerSupplies")},
        f"{at}/PowerSupplies": {"Members": [_link(f"{at}/PowerSupplies/{n}") for n in range(len(inputs))]},
    }
    for number, watts in enumerate(inputs):
        one = f"{at}/PowerSupplies/{number}"
        found[one] = {"Id": f"{number}", "Metrics": _link(f"{one}/Metrics")}
        found[f"{one}/Metrics"] = {"InputPowerWatts": {"Reading": watts}}
    return found


@contextmanager
def _served(resources: dict[str, dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The environment that names the server, and holds its credentials."""
    expected = "Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers.get("Authorization") == expected
            found = resources.get(self.path)
            self.send_response(401 if not is_known else 404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found or {}).encode())

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield {
                "LLEM_METER_REDFISH_URL": f"http://127.0.0.1:{server.server_port}",
                "LLEM_METER_REDFISH_USER": "reader",
                "LLEM_METER_REDFISH_PASSWORD": PASSWORD,
            }
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("resources", "watts", "by"),
    [
        (old_form(344), 344, "Power"),
        (new_form(374.5), 374.5, "EnvironmentMetrics"),
        (supplies_form([937.4, 12.6]), 950, "PowerSubsystem"),
        # An EnvironmentMetrics without power, as of a board that only knows temperatures.
        ({**old_form(120), f"{CHASSIS}/1U/EnvironmentMetrics": {}}, 120, "Power"),
    ],
)
def test_each_form_of_the_standard_gives_the_hosts_power(
    resources: dict[str, dict[str, Any]], watts: float, by: str
) -> None:
    with _served(resources) as environ, RedfishMeter(environ=environ) as meter:
        assert [(one.domain, one.raw) for one in meter.sample()] == [("host", round(watts * 1000))]
        assert meter.notes == (f"by {CHASSIS}/1U/{by}",)
        (domain,) = meter.domains()
    assert domain.systematic_gain is not None


@pytest.mark.parametrize("watts", [0, -1, None, "N/A", True])
def test_a_sensor_that_does_not_know_is_refused(watts: object) -> None:
    for resources in (old_form(watts), new_form(watts), supplies_form([watts])):
        with _served(resources) as environ:
            why = RedfishMeter(environ=environ).why_unavailable() or ""
        assert "says its power" in why
        assert f"reads {watts!r} W" in why or resources == supplies_form([watts])


def test_one_power_supply_that_does_not_say_makes_the_sum_unknown() -> None:
    with _served(supplies_form([400, None])) as environ:
        assert RedfishMeter(environ=environ).why_unavailable() is not None


def test_a_sensor_that_stops_knowing_gives_no_sample_and_then_goes_on() -> None:
    resources = new_form(200)
    reading = resources[f"{CHASSIS}/1U/EnvironmentMetrics"]["PowerWatts"]
    with _served(resources) as environ, RedfishMeter(environ=environ) as meter:
        reading["Reading"] = -1
        assert meter.sample() == []
        reading["Reading"] = 210
        assert [one.raw for one in meter.sample()] == [210_000]


def test_of_several_chassis_one_has_to_be_named() -> None:
    resources = old_form(1_500, "Enclosure") | new_form(300, "Blade1")
    resources[CHASSIS] = {"Members": [_link(f"{CHASSIS}/Enclosure"), _link(f"{CHASSIS}/Blade1")]}
    with _served(resources) as environ:
        assert "Blade1, Enclosure" in (RedfishMeter(environ=environ).why_unavailable() or "")
        with RedfishMeter(environ={**environ, "LLEM_METER_REDFISH_CHASSIS": "Blade1"}) as meter:
            assert [one.raw for one in meter.sample()] == [300_000]


def test_a_chassis_that_is_listed_and_not_there_is_passed_over() -> None:
    resources = old_form(300)
    resources[CHASSIS] = {"Members": [_link(f"{CHASSIS}/Drawer"), _link(f"{CHASSIS}/1U")]}
    with _served(resources) as environ:
        assert RedfishMeter(environ=environ).why_unavailable() is None
        why = RedfishMeter(environ=environ | {"LLEM_METER_REDFISH_CHASSIS": "Drawer"}).why_unavailable()
        assert "Drawer answers 404" in (why or "")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"Members":',
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_what_is_no_controller_is_refused_as_such(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        why = RedfishMeter(environ={"LLEM_METER_REDFISH_URL": url}).why_unavailable()
        thread.join()
    assert f"{url}{CHASSIS} can't be read" in (why or "")


def test_wrong_credentials_are_refused_and_never_printed() -> None:
    with _served(old_form(344)) as environ:
        why = RedfishMeter(
            environ={**environ, "LLEM_METER_REDFISH_PASSWORD": "another-one"}
        ).why_unavailable()
    assert why is not None
    assert "LLEM_METER_REDFISH_PASSWORD" in why
    assert "another-one" not in why
    assert base64.b64encode(b"reader:another-one").decode() not in why


@pytest.mark.parametrize(
    "url", ["http://bmc.example", "https://reader:sesame@bmc.example", "bmc.example", "ftp://bmc.example"]
)
def test_an_address_that_would_give_the_password_away_is_refused(url: str) -> None:
    environ = {
        "LLEM_METER_REDFISH_URL": url,
        "LLEM_METER_REDFISH_USER": "reader",
        "LLEM_METER_REDFISH_PASSWORD": PASSWORD,
    }
    why = RedfishMeter(environ=environ).why_unavailable()
    assert why is not None
    assert "sesame" not in why
