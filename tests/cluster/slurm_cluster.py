"""A Slurm of two nodes on this machine, from Debian's packages."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from small_study import wait

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
CONF = """\
ClusterName=llem
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=15
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node1} CPUs=1
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node2} CPUs=1
PartitionName=low Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=node1,node2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str | None:
    """Why no cluster can be started here."""
    missing = [name for name in PROGRAMS if _found(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "starting slurmd needs root"


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass
class Cluster:
    """`environment` is what the commands of Slurm need to find it."""

    place: Path
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen[bytes]]

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def start_node(self, name: str) -> None:
        self.nodes[name] = _daemon([str(_found("slurmd")), "-D", "-N", name], self.environment)


@contextmanager
def cluster(place: Path) -> Iterator[Cluster]:
    """Two idle nodes. Everything that was started is ended on leaving, by its process."""
    for name in ("state", "spool-node1", "spool-node2"):
        (place / name).mkdir()
    ports = dict(zip(("controller", "node1", "node2"), _free_ports(3), strict=True))
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(place=place, **ports))
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with ExitStack() as daemons:
        daemons.callback(lambda: _end(*started))
        started = [_munged(place)]
        started.append(_daemon([str(_found("slurmctld")), "-D"], environment))
        found = Cluster(place, environment, {})
        for name in ("node1", "node2"):
            found.start_node(name)
        daemons.callback(lambda: _end(*found.nodes.values()))
        _wait_until_idle(found)
        daemons.callback(lambda: _cancel_all(found))
        yield found


def _cancel_all(found: Cluster) -> None:
    """A node whose daemon ends first leaves the processes of its jobs behind."""
    found.call("scancel", "-u", getpass.getuser())
    wait(lambda: not found.call("squeue", "-h").strip(), "the jobs do not end")


def _munged(place: Path) -> subprocess.Popen[bytes]:
    """With a key of its own, so that a service of the machine is neither needed nor disturbed."""
    home = place / "munge"
    home.mkdir(mode=0o700)
    key = home / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    user = pwd.getpwnam("munge")
    for path in (home, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    for path in (place, *place.parents):
        if path.owner() == "root" and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    place.chmod(0o777)
    files = [
        f"--key-file={key}",
        f"--log-file={home}/log",
        f"--pid-file={home}/pid",
        f"--seed-file={home}/seed",
    ]
    process = subprocess.Popen(
        [str(_found("munged")), "--foreground", "--force", f"--socket={place}/munge.socket", *files],
        user=user.pw_uid,
        group=user.pw_gid,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait((place / "munge.socket").exists, "munged has no socket")
    return process


def _daemon(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait_until_idle(found: Cluster) -> None:
    def idle() -> bool:
        try:
            return found.call("sinfo", "-h", "-p", "low", "-o", "%T %D").split() == ["idle", "2"]
        except subprocess.CalledProcessError:
            return False

    wait(idle, f"the nodes do not become idle; logs in {found.place}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
