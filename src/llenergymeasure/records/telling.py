"""What weakens a number, and why is there none?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

WarningCode: TypeAlias = Literal[
    "no_energy_source",
    "energy_modelled",
    "window_too_short",
    "counter_power_mismatch",
    "counter_reset",
    "sensor_stuck",
    "sensor_uncharacterised",
    "part_time_sensor",
    "thermal_throttle",
    "power_cap_active",
    "clock_changed",
    "temperature_drift",
    "idle_drift",
    "foreign_gpu_process",
    "cannot_exclude_foreign_processes",
    "mig_shared",
    "host_busy",
    "not_steady",
    "target_not_met",
    "single_pass",
    "tokens_disputed",
    "output_not_pinned",
    "requests_failed",
    "schedule_lag",
    "recorder_gap",
    "swap_active",
    "suspended",
    "passes_correlated",
    "drift",
    "silence_broken",
    "single_process",
    "interrupted",
    "cpu_throttled",
    "domain_missing",
]

REMEDIES: Mapping[WarningCode, str] = {
    "no_energy_source": "choose what is counted (energy.gpus, --meter), run on a machine with NVML or "
    "readable RAPL, or allow the model: --meter estimate",
    "energy_modelled": "for measured joules use a machine with NVML or readable RAPL; "
    "to refuse modelled ones: --set energy.require_measured=true",
    "window_too_short": "lengthen the passes: --set passes.seconds=10, or a larger n",
    "counter_power_mismatch": "trust neither until the sensor is known; compare with an external meter",
    "counter_reset": "the driver was reloaded during the run; run again",
    "sensor_stuck": "reload the driver or choose another meter: --meter",
    "sensor_uncharacterised": "lengthen the passes to at least 5 s so that the sensor's habits matter less",
    "part_time_sensor": "use the energy counter where there is one, and more passes",
    "thermal_throttle": "improve cooling or lower the load; numbers hold for this throttled state only",
    "power_cap_active": "raise the power limit, or report it with the number",
    "clock_changed": "lock the clocks (nvidia-smi -lgc) and run again",
    "temperature_drift": "let the machine warm up or cool down first; raise warmup.max_seconds",
    "idle_drift": "stop other load, wait until idle power is steady, and run again",
    "foreign_gpu_process": "end the other processes on this GPU and run again",
    "cannot_exclude_foreign_processes": "run where the GPU's processes are visible: outside the "
    "container, or with the host's pid namespace",
    "mig_shared": "the whole GPU is measured: keep the other instances idle",
    "host_busy": "stop other load on this host and run again",
    "not_steady": "raise warmup.max_seconds, or stop what disturbs this machine",
    "target_not_met": "raise repeats.max or passes.budget, or accept the wider interval",
    "single_pass": "raise passes.count or passes.budget, or make a walk over the prompts shorter: a lower -n",
    "tokens_disputed": "check that the tokenizer belongs to the model",
    "output_not_pinned": "set output_length: exact, or choose a model whose context holds the output",
    "requests_failed": "send less at once, or look into the server's log",
    "schedule_lag": "send less, or from a machine with more cores",
    "recorder_gap": "stop other load on this host, so that the recorder gets its turn",
    "swap_active": "free memory before the run, or choose a smaller model",
    "suspended": "keep the machine awake during a run and run again",
    "passes_correlated": "use longer passes, or repeat the run in fresh processes: --set repeats.count=5",
    "drift": "warm up for longer (warmup.max_seconds), or wait until the machine is as warm as it gets",
    "silence_broken": "stop what kept working, or read the wider interval as it is",
    "single_process": "repeat the run in fresh processes: --set repeats.count=3",
    "interrupted": "run again for all repeats, or read the wider interval as it is",
    "cpu_throttled": "raise the quota (docker run --cpus, a pod's limits.cpu, CPUQuota=), or give the engine "
    "no more threads than it allows processors",
    "domain_missing": "mend what can't be read, or say what is to be counted: energy.gpus, --meter",
}


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """Something that weakens a number: which of the closed list, what was seen, what to do about it."""

    code: WarningCode
    message: str
    remedy: str

    @classmethod
    def of(cls, code: WarningCode, message: str) -> MeasurementWarning:
        return cls(code, message, REMEDIES[code])


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run of an experiment that gave no measurement, while others did."""

    index: int
    message: str
    outcome: Literal["failed", "interrupted"] = "failed"
