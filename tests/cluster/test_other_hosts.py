"""A recorder on another host through a real sshd, and one on each node of a real Slurm allocation."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import cluster, why_not
from small_study import config_with, ended, llem, wait

from llenergymeasure.config.models import HostConfig
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.measure.hosts import HostMeter
from llenergymeasure.records import Window

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from other_hosts import RECORD, in_namespace, plug_in, wave, why_no_namespace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Remote:
    """`ssh` is the command up to what is run there."""

    ssh: tuple[str, ...]
    site: Path


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    """An sshd of its own on a port of 127.0.0.1, whose host key and whose user's key are in a folder."""
    if SSHD is None or os.geteuid() != 0:
        pytest.skip("sshd is not installed (apt-get install openssh-server), or this is not root")
    if why := why_no_namespace():
        pytest.skip(why)
    site = plug_in(tmp_path)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\nPasswordAuthentication no\n"
        f"PermitRootLogin prohibit-password\n"
    )
    daemon = subprocess.Popen([SSHD, "-D", "-f", str(config)], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait(answers, "sshd does not listen")
        options = ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={tmp_path}/known"]
        yield Remote(
            ("ssh", *options, "-i", f"{tmp_path}/user", "-p", str(port), f"{getpass.getuser()}@127.0.0.1"),
            site,
        )
    finally:
        daemon.terminate()
        daemon.wait()


def recorder_there(site: Path, *, name: str = "gpu:GPU-wave") -> tuple[str, ...]:
    paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])
    return ("env", f"PYTHONPATH={paths}", f"WAVE={name}", *RECORD)


def through_ssh(remote: Remote) -> HostConfig:
    there = in_namespace(*recorder_there(remote.site))
    return HostConfig(name="node2", command=(*remote.ssh, *there))


def test_joules_through_ssh_are_those_read_here(remote: Remote, tmp_path: Path) -> None:
    meters = [wave(remote.site), HostMeter(through_ssh(remote))]
    with Recorder(meters, clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        time.sleep(1.0)
        start_ns = time.monotonic_ns()
        time.sleep(10.0)
        window = Window(start_ns, time.monotonic_ns())
        time.sleep(0.5)
    trace = recorder.trace()
    here, there = (window_energy(trace, name, window) for name in ("gpu:GPU-here", "node2/gpu:GPU-wave"))
    assert here.joules is not None
    assert there.joules == pytest.approx(here.joules, rel=1e-3)
    assert not trace.gaps


def test_killing_ssh_in_mid_run_keeps_the_local_part(remote: Remote, tmp_path: Path) -> None:
    here = tmp_path / "here"
    command = ("sh", "-c", f'echo $$ >{tmp_path}/ssh.pid; exec "$@"', "sh", *through_ssh(remote).arguments)
    config = config_with(tmp_path, [HostConfig(name="node2", command=command, role="decode")])
    process = llem("run", str(config), "-o", str(here), "--json")

    def is_in_the_passes() -> bool:
        events = list(here.glob("*/runs/1.part/events.jsonl"))
        return bool(events) and '"kind":"full"' in events[0].read_text().replace(" ", "")

    try:
        wait(is_in_the_passes, "the passes do not begin")
        os.kill(int((tmp_path / "ssh.pid").read_text()), signal.SIGKILL)
        code, out, err = ended(process)
    finally:
        process.kill()
    assert code == 0, err
    energy = json.loads(out)["energy"]
    assert energy["total"]["value"], (energy["reasons"], energy["lacks"], energy["readings"])
    assert [one["domain"] for one in energy["readings"]] == ["gpu:GPU-simulated-0"]
    ((name, why),) = [(one["domain"], one["reason"]) for one in energy["lacks"]]
    assert name == "node2/gpu:GPU-wave"
    assert "host_lost" in why


def test_each_node_of_an_allocation_is_recorded_with_its_role(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    if (why := why_not()) is not None:
        pytest.skip(why)
    site = plug_in(tmp_path)
    with cluster(tmp_path_factory.mktemp("slurm")) as slurm:
        job = slurm.call("sbatch", "--parsable", "-N2", "-o", "/dev/null", "--wrap", "sleep 200").strip()
        wait(lambda: slurm.call("squeue", "-h", "-j", job, "-o", "%t").strip() == "R", "the job does not run")
        carried = tuple(f"{name}={value}" for name, value in slurm.environment.items())
        hosts = [
            HostConfig(
                name=node,
                command=(
                    "env",
                    *carried,
                    *("srun", f"--jobid={job}", "--overlap", "-w", node, "-N1", "-n1", "--unbuffered"),
                    *recorder_there(site, name=f"gpu:GPU-{node}"),
                ),
                role=role,
            )
            for node, role in (("node1", "prefill"), ("node2", "decode"))
        ]
        config = config_with(tmp_path, hosts)
        code, out, err = ended(llem("run", str(config), "--json"))
        assert code == 0, err
        slurm.call("scancel", job)
    energy = json.loads(out)["energy"]
    parts = {one["role"]: one for one in energy["hosts"]}
    assert {role: one["hosts"] for role, one in parts.items()} == {
        None: ["here"],
        "prefill": ["node1"],
        "decode": ["node2"],
    }
    total = sum(one["total"]["value"] for one in parts.values())
    assert total == pytest.approx(energy["total"]["value"])
    assert parts["prefill"]["total"]["value"] == pytest.approx(parts["decode"]["total"]["value"], rel=0.02)
