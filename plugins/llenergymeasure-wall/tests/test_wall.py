from __future__ import annotations

import socket
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from plugs import Plug, plugged_in

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Window
from llenergymeasure_wall import WallMeter


@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
def test_power_and_counter_of_a_plug_are_the_wall(kind: str) -> None:
    with plugged_in(Plug(kind)) as url, WallMeter({"LLEM_METER_WALL_URL": f"{url}/"}) as meter:
        (domain,) = meter.domains()
        readings: dict[str, list[int]] = {}
        for _ in range(3):
            time.sleep(0.2)
            for sample in meter.sample():
                readings.setdefault(sample.quantity, []).append(sample.raw)
    assert (domain.name, domain.kind, domain.resolution_j) == ("wall", "wall", 3.6)
    assert [one.source for one in domain.quantities] == [f"{kind}.energy", f"{kind}.power"]
    assert set(readings["power_usage"]) == {240_000}
    assert all(later > earlier for earlier, later in pairwise(readings["energy"]))
    assert domain.systematic_gain is not None


def test_a_counter_that_stands_still_while_it_is_tried_is_left_to_power() -> None:
    with plugged_in(Plug(step_s=3600)) as url, WallMeter({"LLEM_METER_WALL_URL": url}) as meter:
        (domain,) = meter.domains()
        assert [sample.quantity for sample in meter.sample()] == ["power_usage"]
    assert domain.resolution_j is None


@pytest.mark.parametrize("step_s", [0.1, 3600])
def test_what_is_recorded_gives_the_joules_of_a_window(tmp_path: Path, step_s: float) -> None:
    with plugged_in(Plug(step_s=step_s)) as url:
        with Recorder([WallMeter({"LLEM_METER_WALL_URL": url})], clock=time, directory=tmp_path) as recorder:
            time.sleep(1)
            start_ns = time.monotonic_ns()
            time.sleep(3)
            window = Window(start_ns, time.monotonic_ns())
            time.sleep(3)
        spent = window_energy(recorder.trace(), "wall", window)
    assert spent.method == ("counter" if step_s < 1 else "sampled")
    assert spent.joules is not None
    assert spent.joules == pytest.approx(240 * window.duration_s, rel=0.1)  # a busy machine reads late
    assert abs(spent.joules - 240 * window.duration_s) <= spent.half_width_j


@pytest.mark.parametrize("watts", [0, -3.2, None, "high", True])
def test_a_plug_that_can_not_be_this_machines_is_refused(watts: Any) -> None:
    with plugged_in(Plug(replaced={"apower": watts, "aenergy": {"total": 1.0}})) as url:
        assert "W, which can't be" in (WallMeter({"LLEM_METER_WALL_URL": url}).why_unavailable() or "")


@pytest.mark.parametrize("said", [{}, [], {"StatusSNS": {}}, b"<html>", {"apower": 3, "aenergy": 7}])
def test_what_is_no_plug_is_refused(said: Any) -> None:
    for kind in ("shelly", "tasmota"):
        with plugged_in(Plug(kind, replaced=said)) as url:
            assert "neither a Shelly" in (WallMeter({"LLEM_METER_WALL_URL": url}).why_unavailable() or "")


def test_an_address_of_another_service_is_refused_as_no_plug() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(2):
                connection, _address = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "neither a Shelly" in (WallMeter({"LLEM_METER_WALL_URL": url}).why_unavailable() or "")
        thread.join()


def test_a_plug_with_a_password_and_one_that_is_away_are_refused_with_a_way_out() -> None:
    with plugged_in(Plug(status=401)) as url:
        assert "asks for a password" in (WallMeter({"LLEM_METER_WALL_URL": url}).why_unavailable() or "")
    assert "can't be reached" in (WallMeter({"LLEM_METER_WALL_URL": url}).why_unavailable() or "")
    assert "LLEM_METER_WALL_URL" in (WallMeter({}).why_unavailable() or "")
    for wrong in (
        {"LLEM_METER_WALL_URL": "http://u:p@plug"},
        {"LLEM_METER_WALL_URL": url, "LLEM_METER_WALL_SWITCH": "-1"},
    ):
        assert "is no" in (WallMeter(wrong).why_unavailable() or "")


def test_a_plug_that_is_pulled_out_in_a_run_gives_its_reason() -> None:
    with plugged_in(Plug()) as url:
        meter = WallMeter({"LLEM_METER_WALL_URL": url}).__enter__()
    with pytest.raises(EnergyError, match="can't be reached"):
        meter.sample()


def test_llem_finds_it_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    with plugged_in(Plug()) as url:
        monkeypatch.setenv("LLEM_METER_WALL_URL", url)
        found = choose_meters(EnergyConfig(boundary="wall"), processes=list)
    assert "wall" in [domain.name for domain in found.domains]
