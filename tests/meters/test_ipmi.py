"""The host's power by IPMI over the network, from openipmi's simulator of a controller."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ipmi_bmc import PASSWORD, Bmc, missing, simulated_bmc

from llenergymeasure.energy.meters.ipmi import IpmiMeter

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bmc]:
    with simulated_bmc(tmp_path_factory.mktemp("bmc")) as made:
        yield made


def _meter(bmc: Bmc, **more: str) -> IpmiMeter:
    return IpmiMeter(environ=os.environ | bmc.environ(**more))


def test_a_controller_without_dcmi_is_read_by_its_sensor_of_the_machine(bmc: Bmc) -> None:
    with _meter(bmc) as meter:
        for watts in (200, 640):
            bmc.draw(watts)
            deadline = time.monotonic() + 30
            while (reading := [one.raw / 1000 for one in meter.sample()]) != [watts]:
                assert time.monotonic() < deadline, reading
        (domain,) = meter.domains()
    assert (domain.name, domain.kind) == ("host", "host")
    assert meter.notes == ("by the sensor 'Pwr Consumption'",)


def test_the_password_may_be_in_a_file(bmc: Bmc, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    assert (
        _meter(
            bmc, LLEM_METER_IPMI_PASSWORD="", LLEM_METER_IPMI_PASSWORD_FILE=str(tmp_path / "secret")
        ).why_unavailable()
        is None
    )


def test_wrong_credentials_are_refused_and_never_printed(bmc: Bmc) -> None:
    why = _meter(bmc, LLEM_METER_IPMI_PASSWORD="another-one").why_unavailable()
    assert why is not None
    assert "LLEM_METER_IPMI_PASSWORD" in why
    assert "another-one" not in why
    assert PASSWORD not in why


def test_of_two_sensors_that_may_be_the_machine_one_has_to_be_named(tmp_path: Path) -> None:
    with simulated_bmc(tmp_path, sensors=("PS1 Input Power", "PS2 Input Power")) as bmc:
        assert "PS1 Input Power, PS2 Input Power" in (_meter(bmc).why_unavailable() or "")
        with _meter(bmc, LLEM_METER_IPMI_SENSOR="PS2 Input Power") as meter:
            assert [one.raw for one in meter.sample()] == [200_000]


def test_zero_watts_are_no_reading(bmc: Bmc) -> None:
    with _meter(bmc) as meter:
        bmc.draw(0)
        deadline = time.monotonic() + 30
        while meter.sample() and time.monotonic() < deadline:
            pass
        assert meter.sample() == []
    bmc.draw(200)
