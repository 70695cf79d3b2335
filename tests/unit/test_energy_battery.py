from __future__ import annotations

from pathlib import Path

import pytest
from hwmon_tree import record_block, supply, write

from llenergymeasure.energy.meters.battery import BatteryMeter, has_battery
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.simulation.clock import VirtualClock


def _laptop(root: Path, *, clock: VirtualClock | None = None, **battery: str | int) -> BatteryMeter:
    supply(root, "AC", type="Mains", online=0)
    supply(root, "BAT0", **{"type": "Battery", "status": "Discharging", "present": 1, **battery})
    return BatteryMeter(root / "power_supply", clock=clock or VirtualClock())


def _drawn_w(meter: BatteryMeter) -> float:
    with meter:
        (sample,) = meter.sample()
    assert sample.domain == "host"
    return sample.raw / 1e6


def test_power_is_read_or_made_of_volts_and_amperes(tmp_path: Path) -> None:
    assert _drawn_w(_laptop(tmp_path / "a", power_now=11_500_000)) == 11.5
    # Some drivers count what flows out as negative.
    assert _drawn_w(_laptop(tmp_path / "b", voltage_now=11_000_000, current_now=-1_500_000)) == 16.5


def test_batteries_that_feed_the_machine_add_up_and_a_mouse_does_not(tmp_path: Path) -> None:
    meter = _laptop(tmp_path, power_now=11_000_000)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", power_now=4_000_000)
    supply(tmp_path, "BAT2", type="Battery", status="Not charging", power_now=0)
    supply(tmp_path, "hid", type="Battery", status="Discharging", scope="Device", power_now=1_000_000)
    assert _drawn_w(meter) == 15


@pytest.mark.parametrize(
    ("battery", "online", "said"),
    [
        ({"power_now": 9_000_000}, 1, "on mains"),
        ({"power_now": 9_000_000, "status": "Charging"}, 0, "is charging"),
        ({"status": "Full", "power_now": 0}, 0, "discharging"),
        ({"power_now": -1}, 0, "does not say"),
        ({"power_now": 0}, 0, "does not say"),
        ({}, 0, "does not say"),
    ],
)
def test_it_is_refused_where_the_battery_does_not_feed_the_machine_or_does_not_say(
    tmp_path: Path, battery: dict[str, str | int], online: int, said: str
) -> None:
    meter = _laptop(tmp_path, clock=None, **battery)
    write(tmp_path / "power_supply" / "AC", online=online)
    assert said in (meter.why_unavailable() or "")


def test_a_machine_without_a_battery_has_none(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online=1)
    assert not has_battery(tmp_path / "power_supply")
    assert BatteryMeter(tmp_path / "power_supply").why_unavailable() is not None


def test_a_block_on_battery_gives_the_hosts_joules(tmp_path: Path) -> None:
    clock = VirtualClock()
    meter = _laptop(tmp_path, clock=clock, power_now=9_000_000)
    battery = tmp_path / "power_supply" / "BAT0"

    def work(begins: bool) -> None:
        write(battery, power_now=27_000_000 if begins else 9_000_000)

    (tmp_path / "trace").mkdir()
    seen = record_block([meter], clock, tick=lambda: None, work=work, folder=tmp_path / "trace", seconds=18)
    spent = seen.spent("host")
    assert spent.joules == pytest.approx(27 * 18, abs=27 * 0.5)  # read every half second
    assert spent.joules is not None
    assert abs(spent.joules - 27 * 18) <= spent.half_width_j
    assert spent.systematic is not None
    assert spent.systematic[0] < 27 * 18 < spent.systematic[1]


def test_a_charger_that_is_plugged_in_leaves_a_gap_with_its_reason(tmp_path: Path) -> None:
    clock = VirtualClock()
    meter = _laptop(tmp_path, clock=clock, power_now=9_000_000)
    (tmp_path / "trace").mkdir()
    recorder = Recorder([meter], clock=clock, directory=tmp_path / "trace")
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        clock.sleep(2)
        write(tmp_path / "power_supply" / "AC", online=1)
        clock.sleep(2)
        recorder.stop()
    (gap,) = recorder.trace().gaps
    assert gap.domain == "host"
    assert "mains" in gap.reason
