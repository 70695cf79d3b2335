"""A management controller on this machine: openipmi's simulator, with one sensor of watts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ipmi_sim", "ipmitool")
USER, PASSWORD = "llem", "sesame-of-the-bmc"
# What a step of the sensor's byte is worth.
W_PER_COUNT = 4


def missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True, slots=True)
class Bmc:
    port: int
    file: Path

    def draw(self, watts: int) -> None:
        """From about 0.1 s on."""
        aside = self.file.with_suffix(".new")
        aside.write_text(f"{watts}\n")
        aside.replace(self.file)

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "LLEM_METER_IPMI_HOST": "127.0.0.1",
            "LLEM_METER_IPMI_PORT": str(self.port),
            "LLEM_METER_IPMI_USER": USER,
            # Of its own accord ipmitool asks for the list, which the simulator does not have, for 10 s.
            "LLEM_METER_IPMI_CIPHER": "3",
            "LLEM_METER_IPMI_PASSWORD": PASSWORD,
            **more,
        }


@contextmanager
def simulated_bmc(folder: Path, *, sensors: tuple[str, ...] = ("Pwr Consumption",)) -> Iterator[Bmc]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    bmc = Bmc(port, folder / "watts")
    bmc.draw(200)
    (folder / "state").mkdir()
    (folder / "lan.conf").write_text(
        f'name "llem"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n'
        "allowed_auths_callback none md2 md5 straight\nallowed_auths_user none md2 md5 straight\n"
        "allowed_auths_operator none md2 md5 straight\nallowed_auths_admin none md2 md5 straight\n"
        "guid a123456789abcdefa123456789abcdef\nendlan\n"
        f'user 2 true "{USER}" "{PASSWORD}" admin 10 none md2 md5 straight\n'
    )
    emulated = [
        "mc_setbmc 0x20",
        "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02",
        "mc_enable 0x20",
    ]
    for number, name in enumerate(sensors, start=1):
        emulated += [
            f'sensor_add 0x20 0 {number} 0x0b 0x01 poll 50 file "{bmc.file}" div={W_PER_COUNT}',
            f"sensor_set_event_support 0x20 0 {number} enable scanning per-state " + " ".join(["0" * 15] * 4),
            "main_sdr_add 0x20 " + " ".join(f"{byte:#04x}" for byte in _record(number, name)),
        ]
    (folder / "emu").write_text("\n".join(emulated) + "\n")
    command = ["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", "state", "-n"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as running,
    ):
        try:
            _wait(bmc, running, folder / "log")
            yield bmc
        finally:
            running.kill()


def _wait(bmc: Bmc, running: subprocess.Popen[bytes], log: Path) -> None:
    asked = ["ipmitool", "-I", "lanplus", "-H", "127.0.0.1", "-p", str(bmc.port), "-U", USER, "-E", "-C", "3"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        done = subprocess.run(
            [*asked, "mc", "info"],
            env={"PATH": "/usr/bin:/bin", "IPMI_PASSWORD": PASSWORD},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return
        time.sleep(0.2)
    raise RuntimeError(f"ipmi_sim does not answer: {log.read_text(errors='replace')}")


def _record(number: int, name: str) -> bytes:
    """A full sensor record (IPMI 2.0, 43.1) of unsigned watts, `W_PER_COUNT` each."""
    key = bytes([0x20, 0, number, 0x07, 1, 0x7F, 0x40, 0x0B, 0x01, *[0] * 6])
    units = bytes([0, 6, 0, 0, W_PER_COUNT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0, *[0] * 11])
    body = key + units + bytes([0xC0 | len(name)]) + name.encode("ascii")
    return bytes([number, 0, 0x51, 0x01, len(body)]) + body
