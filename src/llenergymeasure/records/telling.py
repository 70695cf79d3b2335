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
    "device_shared",
    "window_open",
    "recorder_lost",
    "command_failed",
    "calibration_old",
    "places_differ",
    "server_shared",
    "prompts_cached",
]

REMEDIES: Mapping[WarningCode, str] = {
    "no_energy_source": "choose what is counted (energy.gpus, --meter), run on a machine with NVML or "
    "readable RAPL, or allow the model: --meter estimate",
    "energy_modelled": "for measured joules use a machine with NVML or readable RAPL; "
    "to refuse modelled ones: --set energy.require_measured=true",
    "window_too_short": "lengthen the passes: --set passes.seconds=10, or a larger n",
    "counter_power_mismatch": "use neither until the sensor is characterised; compare with an external meter",
    "counter_reset": "the driver was reloaded during the run; run again",
    "sensor_stuck": "reload the driver or choose another meter: --meter",
    "sensor_uncharacterised": "use passes of at least 5 s; of an NVIDIA GPU, characterise the sensor "
    "(llem doctor --characterise)",
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
    "target_not_met": "raise repeats.max where runs are repeated, passes.budget.seconds or "
    "passes.budget.passes, or accept the wider interval",
    "single_pass": "raise passes.count or passes.budget.seconds, or make a walk over the prompts shorter: a "
    "lower -n",
    "tokens_disputed": "check that the tokenizer belongs to the model",
    "output_not_pinned": "choose a model whose context holds the output, or a server that heeds max_tokens "
    "and ignore_eos; with output_length: natural answers may end when they do",
    "requests_failed": "send fewer requests at once, or look into the server's log",
    "schedule_lag": "reduce the load, or send it from a machine with more cores",
    "recorder_gap": "stop other load on this host, so that the recorder runs in time",
    "swap_active": "free memory before the run, or choose a smaller model",
    "suspended": "keep the machine awake during a run and run again",
    "passes_correlated": "use longer passes, or repeat the run in fresh processes: --set repeats.count=5",
    "drift": "warm up for longer (warmup.max_seconds), or wait until its temperature is stable",
    "silence_broken": "stop the process that kept working, or accept the wider interval",
    "single_process": "repeat the run in fresh processes: --set repeats.count=3",
    "interrupted": "run again for all repeats, or accept the wider interval",
    "cpu_throttled": "raise the quota (docker run --cpus, a pod's limits.cpu, CPUQuota=), or give the engine "
    "no more threads than it allows processors",
    "domain_missing": "make the device readable, or choose what is counted: energy.gpus, --meter",
    "device_shared": "let one recorder at a time read these devices",
    "window_open": "close each window, best with a with statement",
    "recorder_lost": "find out why it ended (dmesg shows a lack of memory), and measure again",
    "command_failed": "fix the command, or read its figures as those of a command that failed",
    "calibration_old": "calibrate the board again: llem calibrate",
    "places_differ": "make all repeats in one place: name one node for the executor, or one GPU",
    "server_shared": "keep other clients away from the server while it is measured",
    "prompts_cached": "start the server without its prefix cache (vLLM: --no-enable-prefix-caching, SGLang: "
    "--disable-radix-cache), or name more prompts than are sent: -n",
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
