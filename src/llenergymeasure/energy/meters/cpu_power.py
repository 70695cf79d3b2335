"""How many watts does a busy CPU of this kind draw, where no sensor says so?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from llenergymeasure.host.machine import cpuinfo_field
from llenergymeasure.records import PowerModel

_CITATION = "Cloud Carbon Footprint coefficients from SPECpower_ssj2008 (Apache-2.0)"

# Watts per vCPU, idle and under full load.
_W_PER_VCPU = {
    "EPYC 1st generation": (0.85, 2.60),
    "EPYC 2nd generation": (0.47, 1.69),
    "EPYC 3rd generation": (0.46, 1.96),
    "EPYC 4th generation": (0.74, 2.28),
    "EPYC 5th generation": (3.68, 8.96),
    "Haswell": (1.86, 5.60),
    "Broadwell": (0.71, 3.69),
    "Skylake": (0.61, 4.10),
    "Cascade Lake": (0.69, 4.06),
    "Ice Lake": (0.77, 3.76),
    "Sapphire Rapids": (1.04, 4.16),
    "Emerald Rapids": (0.81, 4.48),
    "Granite Rapids": (0.58, 2.53),
}
_MEMORY_W_PER_GB = (0.19, 0.54)

# Server parts by CPUID family and model (Linux arch/x86/include/asm/intel-family.h; AMD's revision guides).
_INTEL = {
    63: "Haswell",
    79: "Broadwell",
    86: "Broadwell",
    106: "Ice Lake",
    108: "Ice Lake",
    143: "Sapphire Rapids",
    207: "Emerald Rapids",
    173: "Granite Rapids",
    174: "Granite Rapids",
}
_AMD = {
    (23, 1): "EPYC 1st generation",
    (23, 49): "EPYC 2nd generation",
    (25, 1): "EPYC 3rd generation",
    (25, 17): "EPYC 4th generation",
    (25, 160): "EPYC 4th generation",
    (26, 2): "EPYC 5th generation",
    (26, 17): "EPYC 5th generation",
}


def power_model(cpuinfo: str) -> PowerModel:
    """The model of power for the CPU that /proc/cpuinfo describes; empty where there is no such file.

    One busy vCPU-second costs the full-load figure. At the least it costs what the load adds to idle (full −
    idle); at the most twice the figure, as a lone busy thread keeps the core that it shares with a sibling
    awake by itself. Where the CPU is not in the table the range spans the whole table, around its median.
    Memory costs 0.19 to 0.54 W/GB, by its middle.
    """
    names = microarchitectures(cpuinfo)
    rows = [_W_PER_VCPU[name] for name in names or _W_PER_VCPU]
    low, high = (watts / 1e9 for watts in _MEMORY_W_PER_GB)
    return PowerModel(
        name=f"cpu-time-model ({' or '.join(names) if names else 'CPU not in the table'})",
        citation=_CITATION,
        w_per_busy_vcpu=median(full for _, full in rows),
        w_per_busy_vcpu_range=(min(full - idle for idle, full in rows), max(2 * full for _, full in rows)),
        w_per_byte=(low + high) / 2,
        w_per_byte_range=(low, high),
    )


def microarchitectures(cpuinfo: str) -> Sequence[str]:
    """What the CPU may be, by names of the table; empty where that cannot be determined.

    A hypervisor may hide the model number, and a sandbox the stepping; vector instructions then still leave
    only the generations that have them.
    """
    vendor = cpuinfo_field(cpuinfo, "vendor_id")
    family, model, stepping = (_number(cpuinfo, name) for name in ("cpu family", "model", "stepping"))
    if family is None or model is None:
        return []
    if vendor == "AuthenticAMD":
        return [_AMD[family, model]] if (family, model) in _AMD else []
    if vendor != "GenuineIntel" or family != 6:
        return []
    flags = set(cpuinfo_field(cpuinfo, "flags").split())
    if model == 85:
        return _by_stepping(stepping, flags)
    if model in _INTEL:
        return [_INTEL[model]]
    return _by_flags(flags)


def _number(cpuinfo: str, name: str) -> int | None:
    said = cpuinfo_field(cpuinfo, name)
    return int(said) if said.isdecimal() else None


def _by_stepping(stepping: int | None, flags: set[str]) -> Sequence[str]:
    """Of model 85: beyond stepping 7 it is Cooper Lake, which is not in the table."""
    if stepping is None:
        return ["Cascade Lake"] if "avx512_vnni" in flags else ["Skylake", "Cascade Lake"]
    if stepping > 7:
        return []
    return ["Skylake" if stepping <= 4 else "Cascade Lake"]


def _by_flags(flags: set[str]) -> Sequence[str]:
    if "amx_fp16" in flags:
        return ["Granite Rapids"]
    return ["Sapphire Rapids", "Emerald Rapids"] if "amx_tile" in flags else []
