"""What does each warning mean, and which ones mean that the energy must not be relied on?"""

from __future__ import annotations

from collections.abc import Mapping

from llenergymeasure.records import WarningCode

# What makes joules wrong by an amount that nobody can state, as against merely wide or unusual.
INVALIDATING: frozenset[WarningCode] = frozenset(
    {
        "counter_power_mismatch",
        "counter_reset",
        "sensor_stuck",
        "recorder_gap",
        "foreign_gpu_process",
        "suspended",
        "server_shared",
    }
)

MEANINGS: Mapping[WarningCode, str] = {
    "no_energy_source": "No meter gave the energy of the passes. Energy is missing, never 0.",
    "energy_modelled": "Energy is estimated from CPU time and a model of power. Its range is the systematic "
    "error of that model.",
    "window_too_short": "A pass is shorter than 5 s, so that errors at its edges weigh too much. "
    "A pass under 1 s has no energy.",
    "counter_power_mismatch": "The energy counter and the integrated power of the same board are apart by "
    "more than 5 % and by more than three standard deviations.",
    "counter_reset": "The energy counter was reset within a pass.",
    "sensor_stuck": "The energy counter did not change for a second or more of a pass, although the driver "
    "answered.",
    "sensor_uncharacterised": "Power was integrated without knowing how often the sensor updates, over how "
    "long it averages and how late it is. Of NVIDIA's boards `llem doctor --characterise` measures that.",
    "part_time_sensor": "The power sensor looks at a part of the time only, such as 25 of every 100 ms. A "
    "load with a rhythm of its own may be seen at its worst or at its best.",
    "thermal_throttle": "Heat made the driver lower the clocks for more than 1 % of the passes' time, by "
    "its own cumulative violation time.",
    "power_cap_active": "The power limit held the board back for more than 1 % of the passes' time, by its "
    "own cumulative violation time, or the limit itself was changed during the run.",
    "clock_changed": "The clock of the board's processors differs by more than 5 % between passes (or "
    "between the halves of a single pass).",
    "temperature_drift": "The board's temperature differs by more than 5 °C between passes (or between the "
    "halves of a single pass).",
    "idle_drift": "Idle power with the model loaded differs by more than 10 % between before and after the "
    "passes, and by more than the two intervals explain. Net energy depends on it.",
    "foreign_gpu_process": "A process that is not of this run was on the GPU during a pass. What it used "
    "can't be taken off.",
    "cannot_exclude_foreign_processes": "The list of the GPU's processes can't be read or shows processes "
    "that this host does not, as in a container. Whether somebody else used the GPU is unknown.",
    "mig_shared": "The GPU is split into MIG instances. Its sensor sees the whole board, not one instance.",
    "host_busy": "Other work took more than 15 % of the processors, before the run began or during the "
    "passes.",
    "not_steady": "The warm-up ended at its time limit, before its batches took equally long.",
    "target_not_met": "The interval of joules per output token is wider than the target (`repeats.target`, "
    "or `passes.target` of a single run), or a budget ended the measurement early.",
    "single_pass": "One pass in one process: scatter cannot be determined, so there is no interval from it.",
    "tokens_disputed": "The engine's count of tokens and the tokenizer's differ by more than 1 %. The "
    "engine's count is the count; over 5 % `tokens.disputed` is true.",
    "output_not_pinned": "With `output_length: exact`, some request did not produce `max_output_tokens`, or "
    "the length of its record.",
    "requests_failed": "A server refused requests or broke off in the middle of an answer. They are counted, "
    "never sent again; their joules are in the total, and latencies are those of the answered ones.",
    "schedule_lag": "The client did not keep up with the load: one request in a hundred was sent more than "
    "5 ms after it was due. Latencies count from when it was due and include that delay.",
    "recorder_gap": "A meter returned nothing for a while during a pass: it blocked, or the recorder was not "
    "scheduled.",
    "swap_active": "Memory was swapped in or out during the run.",
    "suspended": "The machine slept during the run: CLOCK_BOOTTIME ran on while CLOCK_MONOTONIC stopped.",
    "drift": "The cost of a token moves from the first pass to the last by more than random scatter "
    "explains, so that the result depends on how long was measured.",
    "silence_broken": "The worker, or a neighbour on the same device, drew power that changed, or stayed "
    "high, in a silence before or after the passes. The interval is wider for it.",
    "single_process": "One process: the interval is that of its passes. Another process of the same "
    "configuration may differ by more.",
    "interrupted": "The experiment was ended before its last run (Ctrl-C, a signal, a killed process). What "
    "was measured by then counts; the run that was interrupted does not.",
    "cpu_throttled": "A CPU quota (of a container, a pod or a service) throttled the run's processes in more "
    "than 1 % of its periods in the passes. Times and joules are those of the quota, and `throttling` in the "
    "result counts the periods.",
    "domain_missing": "A device that belongs to the energy asked for could not be read, from the start or in "
    "a pass. The total leaves it out in every run, and `energy.lacks` says which it is and why.",
    "device_shared": "Another recorder was reading the same devices: other work may be in these joules.",
    "window_open": "A window was still open when the recording ended. It is left out.",
    "recorder_lost": "The recorder ended before the program did. What it saw until then is kept.",
    "command_failed": "A command ended with another exit code than 0, and its run counts all the same.",
    "calibration_old": "The calibration of the board was more than a year old when the run began. Sensors "
    "age, and a new driver may read them otherwise.",
    "places_differ": "The runs were made on several hosts or boards. Each has a sensor with an error of its "
    "own, so that runs scatter by more than the work does.",
    "server_shared": "The server answered more requests than this experiment sent, by over 1 %. What others "
    "asked of it is in its joules and in its times.",
    "prompts_cached": "Prompts were sent again and again, and over 1 % of their tokens came from the "
    "server's prefix cache. Prefill cost less than it does for prompts that the server has not seen.",
    "passes_correlated": "Passes that follow one another resemble each other, so that their scatter "
    "understates the uncertainty.",
}
