from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from benchmarks.boards.polled import DOMAIN
from hypothesis import given
from hypothesis import strategies as st
from recordings import S, at, made, only, seen_by

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pooled import pooled_energy
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.marks import Begin, End, Mark, Over, Silence, paired
from llenergymeasure.records import BoundaryName, MeterChoice, Trace, Window
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.windows import WindowsResult, load_any
from llenergymeasure.simulation.sensor import COUNTER, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform


def test_a_block_is_known_to_what_the_method_promises() -> None:
    """Bursts of 40 ms at 600 W, then 200 W, between silences: under 1.1 % at 1 s, 0.2 % at 5 s."""
    draw = random.Random(4)
    for seconds, worst in ((1.0, 0.011), (5.0, 0.002)):
        for _ in range(12):
            power, start_s = Waveform(80.0), 20 + draw.random()
            start_ns, end_ns = round(start_s * S), round((start_s + seconds) * S)
            power.square(start_ns, (600.0, 200.0), until_ns=end_ns, period_s=0.25, duty=0.16)
            power.set(end_ns, 80.0)
            sensor = SimulatedSensor(phase_s=draw.uniform(0, 0.1), fields=frozenset({COUNTER}))
            block = only(made(seen_by(power, sensor), [at("x", start_s, seconds, silent_s=0.55)]))
            truth = power.energy_j(start_ns, end_ns)
            assert block.energy.value == pytest.approx(truth, rel=worst)
            assert block.energy.low is not None
            assert block.energy.high is not None
            assert block.energy.low <= truth <= block.energy.high


def test_short_windows_amid_gaps_hold_the_truth_though_what_is_read_of_them_does_not() -> None:
    """20 ms of 500 W every 100 ms, in step with the counter: interpolated they look like the mean."""
    power = Waveform(100.0)
    power.square(12 * S, (500.0, 100.0), until_ns=68 * S, period_s=0.1, duty=0.2)
    windows = [Window(20 * S + n * S // 10, 20 * S + n * S // 10 + S // 50) for n in range(300)]
    truth = sum(power.energy_j(one.start_ns, one.end_ns) for one in windows)
    spent = pooled_energy(seen_by(power), DOMAIN, windows)
    assert spent.joules is not None
    assert abs(spent.joules - truth) > 0.3 * truth
    assert abs(spent.joules - truth) <= spent.half_width_j


@pytest.mark.parametrize(
    ("asked", "led", "watts"), [("auto", "gpu", 300), ("gpu", "gpu", 300), ("host", "host", 450)]
)
def test_the_boundary_asked_for_leads(asked: BoundaryName, led: str, watts: float) -> None:
    gpu, host = seen_by(Waveform(300.0)), seen_by(Waveform(450.0))
    (domain,) = host.domains
    both = Trace(
        (*gpu.domains, replace(domain, name="host", kind="host")),
        {**gpu.series, **{("host", name): series for (_, name), series in host.series.items()}},
    )
    result = made(both, [at("x", 20, 20)], energy=MeterChoice(gpus="all", boundary=asked))
    assert (result.boundary, [one.domain.partition(":")[0] for one in result.readings]) == (led, [led])
    assert only(result).power.value == pytest.approx(watts, rel=0.01)
    both_ways = {one.boundary: one.energy_each.value for one in only(result).boundaries}
    assert both_ways == {"gpu": pytest.approx(6000, rel=0.01), "host": pytest.approx(9000, rel=0.01)}
    other = "host" if led == "gpu" else "gpu"
    assert f"within {other}" in str(result)
    assert f"within {led}" not in str(result)
    alone = made(gpu, [at("x", 20, 20)], energy=MeterChoice(gpus="all", boundary="host"))
    assert (alone.valid, alone.energy.value, only(alone).energy.value) == (False, None, None)
    assert only(alone).boundaries == ()
    assert set(get_args(BoundaryName)) == set(get_args(EnergyConfig.model_fields["boundary"].annotation))


def test_windows_without_a_pause_are_known_as_one_long_one() -> None:
    power = Waveform(100.0)
    power.square(12 * S, (500.0, 100.0), until_ns=68 * S, period_s=0.37)
    windows = [Window(20 * S + n * S // 10, 20 * S + (n + 1) * S // 10) for n in range(300)]
    trace = seen_by(power)
    pooled = pooled_energy(trace, DOMAIN, windows)
    whole = window_energy(trace, DOMAIN, Window(windows[0].start_ns, windows[-1].end_ns))
    assert pooled.joules == pytest.approx(whole.joules)
    assert pooled.half_width_j == pytest.approx(whole.half_width_j, rel=0.01)
    assert sum(pooled.shares) == pytest.approx(pooled.joules)


@given(
    lengths=st.lists(st.integers(5, 900), min_size=4, max_size=60),
    pauses=st.lists(st.integers(0, 400), min_size=60, max_size=60),
    period_ms=st.integers(20, 600),
    phase_ms=st.integers(0, 99),
)
def test_pooled_windows_of_any_lengths_hold_the_truth(
    lengths: list[int], pauses: list[int], period_ms: int, phase_ms: int
) -> None:
    power = Waveform(90.0)
    power.square(11 * S, (400.0, 150.0), until_ns=69 * S, period_s=period_ms / 1000)
    at_ms, windows = 13_000, []
    for length, pause in zip(lengths, pauses, strict=False):
        if at_ms + length > 66_000:
            break
        windows.append(Window(at_ms * 1_000_000, (at_ms + length) * 1_000_000))
        at_ms += length + pause
    sensor = SimulatedSensor(phase_s=phase_ms / 1000, fields=frozenset({COUNTER}))
    spent = pooled_energy(seen_by(power, sensor, poll_ms=50), DOMAIN, windows)
    truth = sum(power.energy_j(one.start_ns, one.end_ns) for one in windows)
    if sum(lengths) < 1000:
        assert spent.joules is None
        assert "window_too_short" in spent.flags
    elif spent.joules is not None:
        assert abs(spent.joules - truth) <= spent.half_width_j


def test_windows_that_overlap_count_their_time_once() -> None:
    power = Waveform(200.0)
    result = made(seen_by(power), [at("x", 20, 10), at("x", 25, 10), at("x", 40, 5)])
    found = only(result)
    assert (found.count, found.overlapping, found.duration_s) == (3, 1, 20.0)
    assert found.energy.value == pytest.approx(4000, rel=0.01)
    assert found.energy_each.value == pytest.approx(4000 / 3, rel=0.01)


def test_joules_per_token_are_ratios_over_windows_and_missing_where_one_states_none() -> None:
    trace = seen_by(Waveform(200.0))
    stated = [at("x", 20 + 6 * n, 5, prompt_tokens=10, output_tokens=100) for n in range(4)]
    found = only(made(trace, stated))
    assert (found.prompt_tokens, found.output_tokens) == (40, 400)
    assert found.per_output_token.value == pytest.approx(10.0, rel=0.01)
    assert found.per_total_token.value == pytest.approx(4000 / 440, rel=0.01)
    partly = only(made(trace, [*stated, at("x", 50, 5)]))
    assert partly.per_output_token.value is None
    assert "1 of 5" in (partly.per_output_token.reason or "")


def test_few_windows_have_no_interval_of_what_one_costs_and_say_so() -> None:
    found = only(made(seen_by(Waveform(200.0)), [at("x", 20, 5)]))
    assert found.energy_each.value == pytest.approx(1000, rel=0.01)
    assert found.energy_each.low is None
    assert found.energy.low is not None


def test_a_lag_is_an_error_common_to_all_windows_and_no_number_of_them_narrows_it() -> None:
    power = Waveform(100.0)
    power.square(12 * S, (500.0, 100.0), until_ns=68 * S, period_s=4.0)
    few, many = (
        only(made(seen_by(power), [at("x", 14 + 4 * n, 1.5) for n in range(count)])) for count in (3, 12)
    )
    assert few.common_j is not None
    assert many.common_j is not None
    # As independent errors they would be half as large over four times as many.
    assert many.common_j / 12 > 0.8 * few.common_j / 3


def test_marks_of_several_processes_are_paired_in_whatever_order_they_come() -> None:
    marks: list[Mark] = [
        End("2.0", 30, output=4, error="ValueError"),
        Silence("1.0", 5),
        Begin("1.0", "block", 10),
        Begin("3.0", "open", 12),
        Silence("1.0", 20),
        End("1.0", 20),
        Begin("2.0", "other", 25),
        Over("1.0", 28),
        Begin("4.0", "beyond", 40),
        End("4.0", 60),
        End("5.0", 70),
    ]
    marked, left_open = paired(marks, until_ns=50)
    block, other = sorted(marked, key=lambda one: one.name)
    assert (block.name, block.silences) == ("block", (Window(5, 10), Window(20, 28)))
    assert (other.output_tokens, other.error, other.silences) == (4, "ValueError", None)
    assert left_open == {"open": 1, "beyond": 1}


def test_it_is_saved_and_read_back_and_no_other_kind_passes_for_it(tmp_path: Path) -> None:
    result = made(seen_by(Waveform(200.0)), [at("x", 20, 5, output_tokens=3)])
    folder = result.save(tmp_path)
    assert WindowsResult.load(folder) == result == load_any(folder / "result.json")
    with pytest.raises(ResultError, match="already"):
        result.save(tmp_path)
    with pytest.raises(ResultError, match="windows or a command"):
        ExperimentResult.load(folder)
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"count": 1', '"count": "one"'))
    with pytest.raises(ResultError, match=r"windows\.0\.count"):
        WindowsResult.load(folder)


def test_what_is_printed_names_each_window_its_interval_and_what_weakens_it() -> None:
    result = made(seen_by(Waveform(200.0)), [at("short", 20 + n, 0.2) for n in range(10)])
    text = str(result)
    assert "short: 10 windows" in text
    assert "±" in text
    assert "window_too_short" in text
    assert "<table>" in result._repr_html_()
