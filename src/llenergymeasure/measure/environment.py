"""On which machine and with which software was this measured?"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llenergymeasure.host.cgroups import memory_limit_bytes
from llenergymeasure.host.files import PROC, numbers
from llenergymeasure.host.machine import (
    allowed_cpus,
    cpu_name,
    cpuinfo_field,
    memory_total_bytes,
    processors,
    read_cpuinfo,
)
from llenergymeasure.records import Environment, GpuFacts

PACKAGES = (
    "llenergymeasure",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
    "pyarrow",
    "pydantic",
    "nvidia-ml-py",
    "pynvml",
)


def environment(gpus: tuple[GpuFacts, ...], *, proc: Path = PROC) -> Environment:
    """A snapshot of the host, to be taken beside the idle window and never inside a measured one."""
    versions, cpuinfo, total = _versions(), read_cpuinfo(proc), memory_total_bytes(proc=proc)
    return Environment(
        hostname=platform.node(),
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        llem=versions["llenergymeasure"],
        cpu=cpu_name(cpuinfo) or platform.processor() or None,
        logical_cpus=os.cpu_count() or len(allowed_cpus()),
        memory_bytes=total,
        virtualization=_virtualization(cpuinfo),
        container=_container(),
        swap_used_bytes=_swap_used(proc),
        load_1min=_load_1min(),
        git_commit=_git_commit(),
        gpus=gpus,
        versions=versions,
        usable_cpus=processors(proc=proc),
        memory_limit_bytes=memory_limit_bytes(total=total, proc=proc),
    )


def boot_id() -> str | None:
    return _read("/proc/sys/kernel/random/boot_id")


def suspended_ns(read_ns: Callable[[int], int] = time.clock_gettime_ns) -> int | None:
    """How long this machine has slept since boot: CLOCK_BOOTTIME goes on in a suspend, MONOTONIC does not.

    `read_ns` gives the time of a clock by its number. None where the kernel has no such pair of clocks.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    return read_ns(time.CLOCK_BOOTTIME) - read_ns(time.CLOCK_MONOTONIC)


def _swap_used(proc: Path) -> int | None:
    kib = numbers(proc / "meminfo")
    if {"SwapTotal", "SwapFree"} <= kib.keys():
        return (kib["SwapTotal"] - kib["SwapFree"]) * 1024
    return None


def _load_1min() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _versions() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.platform(terse=True)


def _virtualization(cpuinfo: str) -> str | None:
    """The hypervisor's product where the guest can see it, "unknown hypervisor" where only its flag shows."""
    if "hypervisor" not in cpuinfo_field(cpuinfo, "flags").split():
        return None
    return _read("/sys/class/dmi/id/product_name") or _read("/sys/hypervisor/type") or "unknown hypervisor"


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    systemd = os.environ.get("container")  # noqa: SIM112  the name that systemd and podman set
    return systemd or ("kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None)


def _git_commit() -> str | None:
    """The commit of the working directory, since experiments often live in a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip() or None
    except OSError:
        return None
