"""How ipmitool is asked, and what happens when the controller is slow: with a program in its place."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hwmon_tree import chip

from llenergymeasure.energy.meters.hwmon import HwmonMeter
from llenergymeasure.energy.meters.ipmi import IpmiMeter
from llenergymeasure.energy.recording.recorder import Recorder

PASSWORD = "sesame-of-the-bmc"
# As ipmitool 1.8.19 prints it.
DCMI = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 10 Watts
    Maximum during sampling period:                480 Watts
    Average power reading over sample period:      220 Watts
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated
"""


def _meter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch, **environ: str) -> IpmiMeter:
    """With `script` as the program ipmitool, which logs its arguments and its password's variable."""
    folder.mkdir(exist_ok=True)
    program = folder / "ipmitool"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/arguments\necho "$IPMI_PASSWORD" >> {folder}/given\n{script}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    basics = {
        "LLEM_METER_IPMI_HOST": "bmc.example",
        "LLEM_METER_IPMI_USER": "reader",
        "LLEM_METER_IPMI_PASSWORD": PASSWORD,
    }
    return IpmiMeter(environ={"PATH": os.environ["PATH"], **basics, **environ})


def _says(watts: int) -> str:
    return f"cat <<'END'{DCMI.format(watts=watts)}END"


def test_dcmi_is_asked_with_the_password_in_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _meter(tmp_path, _says(223), monkeypatch, LLEM_METER_BMC_AVERAGING_S="5") as meter:
        assert [one.raw for one in meter.sample()] == [223_000]
        ((power,),) = [domain.quantities for domain in meter.domains()]
    assert (power.window_ns, power.step_ns) == (5_000_000_000, 5_000_000_000)
    assert (tmp_path / "arguments").read_text().splitlines()[0] == (
        "-I lanplus -H bmc.example -E -U reader dcmi power reading"
    )
    assert set((tmp_path / "given").read_text().split()) == {PASSWORD}


@pytest.mark.parametrize("watts", [0, -1])
def test_a_controller_that_does_not_know_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watts: int
) -> None:
    assert f"reads {watts} W" in (_meter(tmp_path, _says(watts), monkeypatch).why_unavailable() or "")


@pytest.mark.parametrize(
    "said",
    [
        "Error in open session response message : insufficient resources for session",
        "RAKP 2 HMAC is invalid",
        "Could not open device at /dev/ipmi0 or /dev/ipmi/0: Permission denied",
    ],
)
def test_a_failure_is_told_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    why = _meter(tmp_path, f'echo "{said} $IPMI_PASSWORD" >&2; exit 1', monkeypatch).why_unavailable()
    assert why is not None
    assert PASSWORD not in why
    assert "bmc.example" in why


@pytest.mark.parametrize("averaging", ["0", "soon", "-3", "inf"])
def test_a_memory_that_is_no_number_of_seconds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaging: str
) -> None:
    meter = _meter(tmp_path, _says(200), monkeypatch, LLEM_METER_BMC_AVERAGING_S=averaging)
    assert "LLEM_METER_BMC_AVERAGING_S" in (meter.why_unavailable() or "")


@pytest.mark.slow
def test_a_controller_that_answers_in_30_s_stalls_no_other_meter_and_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip(tmp_path, 0, "xe", "0000:03:00.0", energy1_input=1_000, energy1_label="card")
    # It answers while it is tried, and from then on after 30 s.
    slow = f"test -e {tmp_path}/tried && exec sleep 30\ntouch {tmp_path}/tried\n{_says(200)}"
    meters = [HwmonMeter(tmp_path / "hwmon"), _meter(tmp_path / "bin", slow, monkeypatch)]
    (tmp_path / "trace").mkdir()
    recorder = Recorder(meters, clock=time, directory=tmp_path / "trace")
    recorder.start()
    time.sleep(4)
    began = time.monotonic()
    recorder.stop()
    assert time.monotonic() - began < 10
    trace = recorder.trace()
    (gap,) = trace.gaps
    assert gap.domain == "host"
    assert gap.window.duration_s > 3
    assert gap.reason
    (gpu,) = trace.series.values()
    assert len(gpu.raw) > 10
    # The thread that waits for the program ends it.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(15)
