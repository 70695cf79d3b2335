"""Each code is raised by a scripted trace, and by none that is clean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from docs.generate import warnings_page
from numpy.typing import NDArray
from scripted_run import (
    BARE,
    LOADED,
    PASSES,
    S,
    codes,
    measured,
    message,
    one_pass,
    result_of,
    single_run,
    with_target,
)

from llenergymeasure.analysis.codes import INVALIDATING, MEANINGS
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.config.models import EnergyConfig, ExperimentConfig, RepeatsConfig
from llenergymeasure.records import (
    REMEDIES,
    Domain,
    Gap,
    Idle,
    MeasurementWarning,
    Pass,
    PowerModel,
    Quantity,
    Series,
    SessionFacts,
    Trace,
    WarmUp,
    WarningCode,
    Window,
)
from llenergymeasure.results.models import ExperimentResult

END_S = 70
WATTS = 100.0
Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]

ENERGY = Quantity("energy", "nvml.total_energy", "J", 1e-3)
POWER = Quantity(
    "power_instant", "nvml.power.instant", "W", 1e-3, step_ns=S // 10, window_ns=S // 10, lag_ns=0
)
HEALTH = {
    "temperature": Quantity("temperature", "nvml.temperature", "degC", 1.0),
    "sm_clock": Quantity("sm_clock", "nvml.sm_clock", "Hz", 1e6),
    "power_limit": Quantity("power_limit", "nvml.power_limit", "W", 1e-3),
    "throttle_thermal": Quantity("throttle_thermal", "nvml.violation.thermal", "s", 1e-9),
    "throttle_power": Quantity("throttle_power", "nvml.violation.power", "s", 1e-9),
    "foreign_processes": Quantity("foreign_processes", "nvml.processes", "count", 1.0),
    "hidden_processes": Quantity("hidden_processes", "nvml.processes", "count", 1.0),
}
CLEAN = {
    "temperature": 60.0,
    "sm_clock": 1.4e9,
    "power_limit": 400.0,
    "throttle_thermal": 12.0,
    "throttle_power": 3.0,
    "foreign_processes": 0.0,
    "hidden_processes": 0.0,
}


def constant(value: float) -> Shape:
    return lambda t_s: np.full(t_s.shape, value)


def steps(*points: tuple[float, float]) -> Shape:
    """(from second, value) in order; the first holds before as well."""
    times, values = zip(*points, strict=True)
    return lambda t_s: np.asarray(
        [values[max(0, int(np.searchsorted(times, at, side="right")) - 1)] for at in t_s]
    )


def in_a_pass(t_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    at_ns = t_s[:, None] * S
    starts = [one.window.start_ns for one in PASSES]
    ends = [one.window.end_ns for one in PASSES]
    within: NDArray[np.bool_] = np.any((at_ns >= starts) & (at_ns < ends), axis=1)
    return within


def grows(start_s: float, end_s: float, amount: float, *, base: float = 0.0) -> Shape:
    """`base`, growing by `amount` evenly between the two times."""
    return lambda t_s: base + np.interp(t_s, [start_s, end_s], [0.0, amount])


def series(quantity: Quantity, shape: Shape, *, period_s: float) -> Series:
    t_s = np.arange(0.0, END_S, period_s)
    t_ns = np.round(t_s * S).astype(np.int64)
    raw = np.round(shape(t_s) / quantity.scale).astype(np.int64)
    return Series(quantity, t_ns, t_ns + 1000, raw)


def counter(watts: Shape) -> Shape:
    """The energy of that power, summed over milliseconds."""
    fine = np.arange(0.0, END_S, 1e-3)
    joules = np.cumsum(watts(fine)) * 1e-3
    return lambda t_s: np.interp(t_s, fine, joules)


def device(
    name: str = "gpu:GPU-a",
    *,
    watts: Shape | None = None,
    health: Mapping[str, Shape | None] | None = None,
    energy: Series | None = None,
    power: tuple[Quantity, Shape] | None = None,
    counts: bool = True,
) -> Trace:
    """One board. `health` replaces clean quantities, or takes them away with None."""
    found: dict[str, Series] = {}
    if counts:
        shape = counter(watts or constant(WATTS))
        found["energy"] = energy or series(ENERGY, shape, period_s=0.02)
    if power is not None:
        found[power[0].name] = series(power[0], power[1], period_s=0.02)
    shapes: dict[str, Shape | None] = {key: constant(value) for key, value in CLEAN.items()}
    for key, wanted in {**shapes, **(health or {})}.items():
        if wanted is not None:
            found[key] = series(HEALTH[key], wanted, period_s=1.0)
    domain = Domain(name, "gpu", tuple(one.quantity for one in found.values()))
    return Trace((domain,), {(name, key): one for key, one in found.items()})


def together(*traces: Trace) -> Trace:
    return Trace(
        tuple(domain for trace in traces for domain in trace.domains),
        {key: one for trace in traces for key, one in trace.series.items()},
    )


# A clean run


def test_a_clean_run_is_told_nothing_but_that_it_is_one_and_its_energy_is_valid() -> None:
    result = result_of(device())
    assert [warning.code for warning in result.warnings] == ["single_process"]
    assert (result.energy.valid, result.energy.reasons) == (True, ())
    assert not any("unknown" in note for note in result.notes)


def test_the_state_of_the_device_in_the_passes_stands_in_the_result() -> None:
    hot = steps((0, 40.0), (19.5, 61.0), (28.5, 63.0), (38.5, 62.0), (50, 45.0))
    (state,) = result_of(device(health={"temperature": hot})).devices
    assert state.domain == "gpu:GPU-a"
    assert state.temperature_c == pytest.approx(62.0)
    assert state.sm_clock_hz == pytest.approx(1.4e9)
    assert state.power_limit_w == pytest.approx(400.0)
    assert (state.throttled_thermal_s, state.throttled_power_s, state.foreign_processes) == (0.0, 0.0, 0)


def test_what_a_driver_does_not_tell_is_unknown_and_not_none() -> None:
    silent = dict.fromkeys(("temperature", "sm_clock", "power_limit", "throttle_thermal", "throttle_power"))
    result = result_of(device(health=silent))
    assert codes(result) == set()
    (note,) = [note for note in result.notes if "unknown" in note]
    assert all(word in note for word in ("temperature", "clock", "power limit", "slowed down by heat"))
    assert result.devices[0].throttled_thermal_s is None


# Throttling: from cumulative times, over the passes alone


def test_heat_that_slowed_the_passes_is_told_with_its_seconds() -> None:
    result = result_of(device(health={"throttle_thermal": grows(31, 35, 2.0, base=12.0)}))
    assert codes(result) == {"thermal_throttle"}
    assert "2.0 of 18.0 s" in message(result, "thermal_throttle")
    assert result.devices[0].throttled_thermal_s == pytest.approx(2.0)
    assert result.energy.valid


def test_throttling_before_between_and_after_the_passes_is_not_theirs() -> None:
    outside = [grows(12, 18, 5.0), grows(37, 39, 2.0), grows(47, 60, 10.0)]
    for shape in outside:
        assert codes(result_of(device(health={"throttle_thermal": shape, "throttle_power": shape}))) == set()


def test_a_moment_at_the_power_limit_is_within_the_target() -> None:
    brief, long = grows(31, 35, 0.17), grows(31, 35, 0.2)
    assert codes(result_of(device(health={"throttle_power": brief}))) == set()
    assert codes(result_of(device(health={"throttle_power": long}))) == {"power_cap_active"}


def test_throttled_time_is_never_counted_across_a_driver_that_starts_again() -> None:
    again = steps((0, 500.0), (32, 0.0))
    assert codes(result_of(device(health={"throttle_thermal": again}))) == set()


def test_throttled_time_that_does_not_span_the_passes_is_unknown() -> None:
    trace = device()
    key = ("gpu:GPU-a", "throttle_thermal")
    whole = trace.series[key]
    cut = replace(
        whole, t_before_ns=whole.t_before_ns[:43], t_after_ns=whole.t_after_ns[:43], raw=whole.raw[:43]
    )
    result = result_of(replace(trace, series={**trace.series, key: cut}))
    assert result.devices[0].throttled_thermal_s is None
    assert any("slowed down by heat" in note for note in result.notes)


# Changes during the run


def test_a_power_limit_changed_in_the_run_is_named_with_both_figures() -> None:
    result = result_of(device(health={"power_limit": steps((0, 400.0), (33, 250.0))}))
    assert codes(result) == {"power_cap_active"}
    assert "from 400 W to 250 W" in message(result, "power_cap_active")


def test_a_clock_that_falls_between_passes_is_told_and_a_boost_step_is_not() -> None:
    fell = result_of(device(health={"sm_clock": steps((0, 1.4e9), (28, 1.2e9))}))
    wandered = result_of(device(health={"sm_clock": steps((0, 1.41e9), (28, 1.395e9), (38, 1.38e9))}))
    assert codes(fell) == {"clock_changed"}
    assert "1200 and 1400 MHz" in message(fell, "clock_changed")
    assert codes(wandered) == set()


def test_an_idle_clock_outside_the_passes_is_no_change() -> None:
    idle = steps(
        (0, 0.21e9), (15, 1.4e9), (26.5, 0.21e9), (29, 1.4e9), (36.5, 0.21e9), (39, 1.4e9), (47, 0.2e9)
    )
    assert codes(result_of(device(health={"sm_clock": idle}))) == set()


def test_a_single_flicker_of_the_clock_is_no_change() -> None:
    assert codes(result_of(device(health={"sm_clock": steps((0, 1.4e9), (33, 0.9e9), (34, 1.4e9))}))) == set()


def test_in_a_single_pass_the_halves_are_compared() -> None:
    alone = (one_pass(20, 12.0),)
    fell = result_of(device(health={"sm_clock": steps((0, 1.4e9), (26, 1.2e9))}), alone)
    steady = result_of(device(), alone)
    assert codes(fell) - codes(steady) == {"clock_changed"}


@pytest.mark.parametrize(("rise", "told"), [(4.0, False), (9.0, True)])
def test_a_board_that_warms_over_the_passes_is_told_beyond_five_degrees(rise: float, *, told: bool) -> None:
    warming = steps((0, 60.0), (28, 60.0 + rise / 2), (38, 60.0 + rise))
    result = result_of(device(health={"temperature": warming}))
    assert codes(result) == ({"temperature_drift"} if told else set())


def test_cold_idle_before_the_passes_is_no_drift() -> None:
    assert codes(result_of(device(health={"temperature": steps((0, 30.0), (14, 65.0), (48, 40.0))}))) == set()


# Processes


def test_a_process_of_others_in_a_pass_makes_the_energy_invalid() -> None:
    result = result_of(device(health={"foreign_processes": steps((0, 0.0), (32, 2.0), (34, 0.0))}))
    assert codes(result) == {"foreign_gpu_process"}
    assert "2 processes" in message(result, "foreign_gpu_process")
    assert not result.energy.valid
    assert any(reason.startswith("foreign_gpu_process") for reason in result.energy.reasons)
    assert result.energy.total.value is not None


def test_a_process_that_came_before_the_pass_and_stays_is_seen_in_a_pass_shorter_than_a_look() -> None:
    short = tuple(one_pass(start, 5.0) for start in (20.2, 30.2, 40.2))
    trace = device(health={"foreign_processes": steps((0, 0.0), (20, 1.0), (21, 0.0))})
    assert "foreign_gpu_process" in codes(result_of(trace, short))


def test_processes_outside_the_passes_or_on_a_gpu_that_is_not_used_do_not_matter() -> None:
    outside = device(health={"foreign_processes": steps((0, 3.0), (15, 0.0), (47, 1.0))})
    other = device(
        "gpu:GPU-b", health={"foreign_processes": constant(4.0), "throttle_thermal": grows(20, 50, 30)}
    )
    assert codes(result_of(outside)) == set()
    assert codes(result_of(together(device(), other))) == set()


def test_processes_that_the_host_does_not_show_can_not_be_excluded() -> None:
    result = result_of(device(health={"hidden_processes": steps((0, 0.0), (31, 1.0))}))
    assert codes(result) == {"cannot_exclude_foreign_processes"}
    assert "1 process that this host does not show" in message(result, "cannot_exclude_foreign_processes")
    assert result.energy.valid


def test_a_list_of_processes_that_can_not_be_read_is_unknown_and_not_empty() -> None:
    result = result_of(device(health={"foreign_processes": None, "hidden_processes": None}))
    assert codes(result) == {"cannot_exclude_foreign_processes"}
    assert result.devices[0].foreign_processes is None


def test_a_host_without_gpus_has_no_foreign_gpu_processes() -> None:
    cpu = Domain("cpu:0", "cpu", (ENERGY,))
    trace = Trace((cpu,), {("cpu:0", "energy"): series(ENERGY, counter(constant(50.0)), period_s=0.02)})
    result = result_of(trace)
    assert codes(result) == set()
    assert result.devices == ()


def test_a_module_is_in_the_state_of_the_gpu_on_it() -> None:
    board = device(health={"throttle_thermal": grows(31, 35, 2.0)})
    module = device("module:GPU-a", health=dict.fromkeys(CLEAN))
    asked = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 1,
            "max_output_tokens": 50,
            "energy": {"gpus": "all"},
            "repeats": {"count": 1},
        }
    )
    result = result_of(together(board, module), config=asked)
    assert [warning.code for warning in result.warnings] == ["thermal_throttle", "single_process"]
    assert [state.domain for state in result.devices] == ["gpu:GPU-a"]


def test_a_shared_gpu_is_told_by_the_flag_of_its_domain() -> None:
    trace = device()
    result = result_of(replace(trace, domains=(replace(trace.domains[0], flags=("mig_shared",)),)))
    assert codes(result) == {"mig_shared"}
    assert result.energy.valid


# The sensor and the recorder


def test_a_counter_that_starts_again_in_a_pass_is_told_and_before_it_is_not() -> None:
    def reset_at(at_s: float) -> Trace:
        whole = series(ENERGY, counter(constant(WATTS)), period_s=0.02)
        at = int(at_s / 0.02)
        raw = np.where(np.arange(whole.raw.size) >= at, whole.raw - whole.raw[at], whole.raw)
        return device(energy=replace(whole, raw=raw))

    inside, outside = result_of(reset_at(33)), result_of(reset_at(56))
    assert "counter_reset" in codes(inside)
    assert not inside.energy.valid
    assert "counter_reset" not in codes(outside)
    assert outside.energy.valid


def test_a_counter_that_never_moves_is_stuck_and_its_energy_is_not_zero() -> None:
    result = result_of(device(watts=constant(0.0)))
    assert "sensor_stuck" in codes(result)
    assert not result.energy.valid
    assert result.energy.total.value is None


def test_a_counter_and_power_that_disagree_are_told() -> None:
    agree = result_of(device(power=(POWER, constant(101.0))))
    apart = result_of(device(power=(POWER, constant(57.0))))
    assert "counter_power_mismatch" not in codes(agree)
    assert "counter_power_mismatch" in codes(apart)
    assert not apart.energy.valid


def test_power_of_a_sensor_that_nobody_knows_is_told() -> None:
    unknown = replace(POWER, step_ns=None, window_ns=None, lag_ns=None)
    alone = result_of(device(counts=False, power=(unknown, constant(WATTS))))
    assert "sensor_uncharacterised" in codes(alone)
    assert alone.energy.total.value == pytest.approx(1800.0, rel=1e-3)
    assert "sensor_uncharacterised" not in codes(result_of(device()))


def test_a_sensor_that_is_known_to_look_at_a_part_of_the_time_is_told_and_one_that_looks_always_is_not() -> (
    None
):
    part_time = replace(POWER, window_ns=S // 40)
    assert codes(result_of(device(counts=False, power=(part_time, constant(WATTS))))) == {"part_time_sensor"}
    assert codes(result_of(device(counts=False, power=(POWER, constant(WATTS))))) == set()


def test_passes_under_five_seconds_are_told_and_under_one_have_no_energy() -> None:
    short = result_of(device(), tuple(one_pass(start, 3.0) for start in (20, 30, 40)))
    tiny = result_of(device(), tuple(one_pass(start, 0.5) for start in (20, 30, 40)))
    assert "window_too_short" in codes(short)
    assert short.energy.total.value == pytest.approx(900.0, rel=1e-2)
    assert "window_too_short" in codes(tiny)
    assert "no_energy_source" not in codes(tiny)
    assert tiny.energy.total.value is None


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        (Gap(Window(33 * S, 35 * S), "the driver took its time", "gpu:GPU-a"), True),
        (Gap(Window(33 * S, 35 * S), "late"), True),
        (Gap(Window(47 * S, 49 * S), "late"), False),
        (Gap(Window(33 * S, 35 * S), "lost", "gpu:GPU-b"), False),
    ],
)
def test_a_gap_counts_in_a_pass_and_in_what_is_summed(gap: Gap, *, told: bool) -> None:
    result = result_of(replace(device(), gaps=(gap,)))
    assert ("recorder_gap" in codes(result)) == told
    assert result.energy.valid != told


# Energy without a sensor


def test_a_model_of_power_is_named_as_one() -> None:
    model = PowerModel("model", "nowhere", 4.0, (3.0, 8.0), 0.0, (0.0, 0.0))
    busy = Quantity("cpu_time", "cpu-time-model", "s", 1e-9)
    size = Quantity("resident", "cpu-time-model", "bytes", 1.0)
    host = Domain("host", "host", (busy, size), model=model)
    trace = Trace(
        (host,),
        {
            ("host", "cpu_time"): series(busy, grows(0, END_S, float(END_S)), period_s=0.1),
            ("host", "resident"): series(size, constant(1e9), period_s=0.1),
        },
    )
    assert codes(result_of(trace)) == {"energy_modelled"}


@pytest.mark.parametrize(
    ("meter", "require_measured", "way_out"),
    [
        ("nvml", False, "--meter auto"),
        ("nvml", True, "--meter auto"),
        ("auto", True, "--set energy.require_measured=false"),
    ],
)
def test_gpus_that_are_read_but_not_used_are_named_as_what_is_left_out(
    meter: str, require_measured: bool, way_out: str
) -> None:
    config = ExperimentConfig(
        model="any",
        backend="simulated",
        n=1,
        energy=EnergyConfig(meter=meter, require_measured=require_measured),
    )
    result = result_of(device(), facts=SessionFacts("cpu", {}, {}), config=config)
    said = message(result, "no_energy_source")
    assert said == result.energy.total.reason == result.energy.per_output_token.reason
    assert said == result.energy.net.reason
    assert said.startswith("nothing was measured")
    assert "the engine used none of the GPUs that were read (gpu:GPU-a)" in said
    assert "--set energy.gpus=all" in said
    assert way_out in said
    assert ("energy.require_measured is true" in said) == require_measured


def test_no_meter_at_all_is_told_and_is_no_zero() -> None:
    result = result_of(Trace((), {}))
    assert "no_energy_source" in codes(result)
    assert result.energy.total.value is None


# Idle


def cooling(*, extra_w: float, tau_s: float) -> Shape:
    """95 W idle, 400 W in the passes, and after the last one idle with `extra_w` that fades with `tau_s`."""

    def watts(t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        fading = np.where(t_s < 46, 0.0, extra_w * np.exp(-np.maximum(t_s - 46, 0) / tau_s))
        return np.where(in_a_pass(t_s), 400.0, 95.0 + fading)

    return watts


def idle_after(shape: Shape, start_s: float) -> ExperimentResult:
    window = Window(round(start_s * S), round((start_s + 3) * S))
    return result_of(device(watts=shape), idle=Idle(BARE, LOADED, window))


def test_idle_that_returns_to_where_it_was_is_no_drift() -> None:
    result = idle_after(cooling(extra_w=0.0, tau_s=1.0), 47)
    assert codes(result) == set()
    assert result.energy.idle.after.value == pytest.approx(95.0, rel=5e-3)


def test_a_board_that_cools_after_its_load_is_told_as_cooling() -> None:
    result = idle_after(cooling(extra_w=40.0, tau_s=8.0), 47)
    assert codes(result) == {"idle_drift"}
    assert "95.0 W before the passes" in message(result, "idle_drift")
    assert "still falling" in message(result, "idle_drift")
    assert result.energy.valid


def test_the_interval_of_a_falling_idle_holds_both_of_its_halves() -> None:
    after = idle_after(cooling(extra_w=40.0, tau_s=8.0), 47).energy.idle.after
    assert after.low is not None
    assert after.high is not None
    t_s = np.arange(47.0, 50.0, 1e-3)
    truth = cooling(extra_w=40.0, tau_s=8.0)(t_s)
    assert after.value == pytest.approx(truth.mean(), rel=5e-3)
    assert after.low < truth[t_s >= 48.5].mean() + 1
    assert after.high > truth[t_s < 48.5].mean() - 1


def test_cooling_that_stays_within_a_tenth_is_no_drift() -> None:
    assert codes(idle_after(cooling(extra_w=9.0, tau_s=20.0), 47)) == set()


def test_once_it_has_cooled_there_is_no_drift() -> None:
    assert codes(idle_after(cooling(extra_w=40.0, tau_s=4.0), 62)) == set()


def test_another_load_that_stays_is_a_drift_without_falling() -> None:
    result = idle_after(cooling(extra_w=30.0, tau_s=1e9), 47)
    assert codes(result) == {"idle_drift"}
    assert "falling" not in message(result, "idle_drift")


# The run


def test_warm_up_at_its_cap_is_told() -> None:
    restless = WarmUp(Window(11 * S, 13 * S), (0.5, 0.9), False)
    assert codes(result_of(device(), warm_up=restless)) == {"not_steady"}


def test_one_run_of_one_pass_says_both() -> None:
    once = result_of(device(), (one_pass(20),), config=single_run(count=1))
    assert [warning.code for warning in once.warnings] == ["single_process", "single_pass"]
    assert "repeats.count=3" in once.warnings[0].remedy
    assert "passes.count" in once.warnings[1].remedy


def test_fewer_passes_or_runs_than_asked_for_are_told_with_both_numbers() -> None:
    passes = result_of(device(), config=single_run(count=5))
    assert message(passes, "target_not_met") == "3 of 5 passes were measured"
    runs = result_of(device(), config=single_run().model_copy(update={"repeats": RepeatsConfig(count=4)}))
    assert message(runs, "target_not_met") == "1 of 4 repeats were measured"
    assert "and 4 were asked for" in message(runs, "single_process")


def test_passes_that_scatter_miss_a_target_and_equal_ones_meet_it() -> None:
    uneven = device(watts=steps((0, WATTS), (28, 1.2 * WATTS), (38, 0.9 * WATTS), (48, WATTS)))
    missed, met = result_of(uneven, config=with_target()), result_of(device(), config=with_target())
    assert codes(missed) == {"target_not_met"}
    assert "± 2 % was wanted" in message(missed, "target_not_met")
    assert codes(met) == codes(result_of(uneven)) == set()


def test_an_output_of_another_length_is_told_where_it_was_pinned() -> None:
    cut = tuple(one_pass(start, output=49) for start in (20, 30, 40))
    assert codes(result_of(device(), cut)) == {"output_not_pinned"}


def test_what_was_noticed_in_the_run_stands_first_and_a_suspend_makes_the_energy_invalid() -> None:
    slept = MeasurementWarning.of("suspended", "the machine slept for 42.0 s in the run")
    swapped = MeasurementWarning.of("swap_active", "1.0 MB were swapped in the run")
    result = result_of(device(), warnings=(swapped, slept))
    assert [warning.code for warning in result.warnings] == ["swap_active", "suspended", "single_process"]
    assert not result.energy.valid
    assert any("42.0 s" in reason for reason in result.energy.reasons)
    assert result_of(device(), warnings=(swapped,)).energy.valid


# Silences, drift and several runs


@pytest.mark.parametrize(
    ("watts", "told"),
    [
        (steps((0, WATTS), (19.5, 2 * WATTS)), True),  # somebody begins in the silence before the first pass
        (steps((0, WATTS), (46.6, 2 * WATTS)), True),  # and in the one after the last
        (lambda t_s: np.where(in_a_pass(t_s), 3.0, 1.0) * WATTS, False),
        (
            lambda t_s: np.where(in_a_pass(t_s), 3.0, np.where(in_a_pass(t_s - 0.6), 2.0, 1.0)) * WATTS,
            False,
        ),  # tails
        (steps((0, WATTS), (17, 2 * WATTS), (18.5, WATTS)), False),
    ],
)
def test_power_that_rises_within_a_silence_breaks_it(watts: Shape, *, told: bool) -> None:
    """Read every 4 ms there, as the recorder does."""
    trace = device(energy=series(ENERGY, counter(watts), period_s=0.004))
    result = result_of(trace)
    assert ("silence_broken" in codes(result)) == told
    assert result.energy.valid


def test_a_silence_that_was_broken_makes_the_interval_wider() -> None:
    def width(watts: Shape) -> float:
        total = result_of(device(energy=series(ENERGY, counter(watts), period_s=0.004))).energy.total
        return total.half_width or 0.0

    assert width(steps((0, WATTS), (19.5, 2 * WATTS), (20, WATTS))) > 2 * width(constant(WATTS))


def in_a_row(*watts: float) -> tuple[Trace, tuple[Pass, ...]]:
    """A pass of 5 s at each of these powers, a second apart."""
    starts = [15 + 6 * number for number in range(len(watts))]
    powers = steps(*((start - 0.5, power) for start, power in zip(starts, watts, strict=True)))
    return device(watts=powers), tuple(one_pass(start, 5.0) for start in starts)


def test_costs_that_move_over_the_passes_are_a_drift_by_so_much() -> None:
    moved = result_of(*in_a_row(100, 98, 96, 94.1, 92))
    still = result_of(*in_a_row(100, 98, 101, 98, 100))
    assert "drift" in codes(moved)
    assert "joules per output token falls by 8" in message(moved, "drift")
    assert "drift" not in codes(still)


def test_without_energy_the_time_of_a_token_may_drift() -> None:
    passes = tuple(one_pass(15 + 8 * at, seconds) for at, seconds in enumerate((5.0, 5.1, 5.2, 5.31, 5.4)))
    result = result_of(Trace((), {}), passes)
    assert "time per output token rises" in message(result, "drift")


def runs_of(*traces: Trace) -> ExperimentResult:
    """A run on each of them."""
    config = single_run().model_copy(update={"repeats": RepeatsConfig(count=len(traces))})
    return metrics(
        [measured(trace, index=number, config=config) for number, trace in enumerate(traces, start=1)]
    )


def test_what_one_run_of_several_shows_is_said_once_with_its_number() -> None:
    hot = device(health={"throttle_thermal": grows(31, 35, 2.0, base=12.0)})
    hotter = device(health={"throttle_thermal": grows(31, 35, 3.0, base=12.0)})
    once, all_of_them = runs_of(device(), hot, device()), runs_of(hot, hotter, hot)
    assert codes(once) == codes(all_of_them) == {"thermal_throttle"}
    assert message(once, "thermal_throttle").endswith("in run 2")
    assert message(all_of_them, "thermal_throttle").endswith("in every run")
    assert len(all_of_them.warnings) == 1


def test_one_invalid_run_makes_the_energy_of_all_invalid_and_says_which() -> None:
    foreign = device(health={"foreign_processes": steps((0, 0.0), (32, 2.0), (34, 0.0))})
    result = runs_of(device(), foreign, device())
    assert not result.energy.valid
    assert any("foreign_gpu_process" in reason for reason in result.energy.reasons)
    assert message(result, "foreign_gpu_process").endswith("in run 2")


def test_the_state_of_a_device_is_over_all_runs() -> None:
    hot = device(health={"throttle_thermal": grows(31, 35, 2.0), "temperature": constant(80.0)})
    (state,) = runs_of(hot, hot, device()).devices
    assert state.throttled_thermal_s == pytest.approx(4.0)
    assert state.temperature_c == pytest.approx((80 + 80 + 60) / 3)
    silent = device(health={"throttle_thermal": None})
    (unknown,) = runs_of(hot, silent).devices
    assert unknown.throttled_thermal_s is None


def test_the_same_measurement_gives_the_same_warnings() -> None:
    trace = device(
        health={"throttle_thermal": grows(31, 35, 2.0), "temperature": steps((0, 60.0), (38, 70.0))}
    )
    assert result_of(trace).warnings == result_of(trace).warnings


# The list and its page


def test_every_code_has_a_meaning_and_a_remedy() -> None:
    assert set(MEANINGS) == set(REMEDIES) == set(get_args(WarningCode))
    assert set(REMEDIES) > INVALIDATING


def test_the_page_of_warnings_is_what_the_codes_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "warnings.md"
    made = warnings_page()
    assert page.read_text(encoding="utf-8") == made, "run: python docs/generate.py"
    for code, remedy in REMEDIES.items():
        section = made.partition(f"## `{code}`\n")[2].partition("\n## ")[0]
        assert remedy in section
        assert ("not valid" in section) == (code in INVALIDATING)
