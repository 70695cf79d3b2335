"""Boundaries side by side: what counts within each, and how the host compares with its GPU."""

from __future__ import annotations

import pytest
from benchmarks.boundaries.__main__ import CASES, Case, holds, host_of, run

from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.joules.pool import boundary, summed
from llenergymeasure.records import Domain, DomainKind, EnergyReading, Estimate, PowerModel, Window
from llenergymeasure.results.summary import as_text

MODEL = PowerModel("m", "c", 1.0, (1.0, 1.0), 0.0, (0.0, 0.0))
SLOW = Case("30 s average, beside the GPU", "auto", 10.0, 30.0)


def _domains(names: str) -> list[Domain]:
    kinds: dict[str, DomainKind] = {
        "g": "gpu", "m": "module", "c": "cpu", "d": "dram", "h": "host", "w": "wall", "p": "part",
    }  # fmt: skip
    found = [Domain(name, kinds[name], ()) for name in names if name != "e"]
    return found + ([Domain("e", "host", (), model=MODEL)] if "e" in names else [])


@pytest.mark.parametrize(
    ("seen", "asked", "counted"),
    [
        ("gcdhwp", "auto", "gcd"),
        ("gcdhwp", "parts", "gcd"),
        ("gcdhwp", "gpu+cpu+dram", "gcd"),
        ("gcdhwp", "gpu", "g"),
        ("gcdhwp", "host", "h"),
        ("gcdhwp", "wall", "w"),
        ("ghw", "gpu+cpu+dram", ""),
        ("hwp", "auto", "h"),
        ("wpe", "auto", "w"),
        ("pe", "auto", "e"),
        ("e", "host", ""),
        ("ge", "auto", "g"),
        ("gmc", "auto", "gc"),
        ("mc", "auto", "m"),
        ("p", "auto", ""),
        ("c", "gpu", ""),
    ],
)
def test_a_boundary_takes_in_what_it_names_and_nothing_twice(seen: str, asked: str, counted: str) -> None:
    assert "".join(domain.name for domain in within(_domains(seen), asked)) == counted


@pytest.mark.parametrize(
    ("names", "counted", "name"),
    [
        (["gpu:a", "cpu:0", "host", "wall"], ["gpu:a", "cpu:0"], "gpu+cpu"),
        (["host", "wall"], ["host"], "host"),
        (["wall", "part:x"], ["wall"], "wall"),
    ],
)
def test_a_sum_of_readings_holds_no_whole_beside_its_parts(
    names: list[str], counted: list[str], name: str
) -> None:
    one = Estimate(1.0, "J", 0.9, 1.1)
    readings = [EnergyReading(domain, "s", "counter", Window(0, 1), one) for domain in names]
    assert [reading.domain for reading in summed(readings)] == counted
    assert boundary(readings) == name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_host_stands_beside_its_gpu_with_a_ratio_that_holds_the_truth(case: Case) -> None:
    result, here, ever = run(case, 1)
    energy, host = result.energy, host_of(result)
    gpu = next(one for one in energy.boundaries if one.boundary == "gpu")
    assert [one.boundary for one in energy.boundaries] == ["gpu", "host"]
    led = host if case.boundary == "host" else gpu
    assert (energy.boundary, energy.total, energy.per_output_token) == (
        led.boundary,
        led.total,
        led.per_output_token,
    )
    assert [reading.domain for reading in energy.readings] == [reading.domain for reading in led.readings]
    assert holds(host.to_gpu, here)
    assert holds(host.to_gpu, ever)
    assert host.to_gpu is not None
    assert host.to_gpu.systematic is not None
    assert gpu.to_gpu is None
    for one in (gpu, host):
        assert one.total.value is not None
        assert one.per_output_token.value == pytest.approx(one.total.value / result.tokens.output)
    text = as_text(result)
    assert ("of the GPU alone" in text) == (case.boundary == "auto")
    assert "host : gpu" in text


def test_silences_are_as_long_as_a_slow_meter_needs_only_where_it_leads() -> None:
    beside, asked = (run(case, 1, repeats=1)[0] for case in (CASES[2], CASES[0]))
    narrow, wide = host_of(asked).total, host_of(beside).total
    assert narrow.half_width is not None
    assert wide.half_width is not None
    assert narrow.half_width < wide.half_width / 2


def test_a_block_shorter_than_a_meters_memory_has_no_value_there_and_the_gpu_has_its_own() -> None:
    result, _, _ = run(SLOW, 1, repeats=1)
    host = host_of(result)
    assert (result.energy.valid, host.valid) == (True, False)
    assert host.total.value is None
    assert "30 s" in (host.total.reason or "")
    assert "window_too_short" in host.readings[0].flags
    assert host.to_gpu is not None
    assert host.to_gpu.value is None
    assert "within host" in as_text(result)
