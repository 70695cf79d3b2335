"""What weakens the numbers of a run: each finding is one of the closed list of codes, with its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from llenergymeasure.analysis.codes import MEANINGS
from llenergymeasure.analysis.estimates import half_width, total
from llenergymeasure.analysis.health import device_warnings
from llenergymeasure.analysis.joules import costs_per_output_token, counted_domains
from llenergymeasure.analysis.latency import lag_warnings
from llenergymeasure.analysis.statistics import ENOUGH_FOR_BATCHES, correlated
from llenergymeasure.analysis.tokens import token_warnings
from llenergymeasure.energy.idle import idle_power
from llenergymeasure.records import (
    Domain,
    Measurement,
    MeasurementWarning,
    WarningCode,
    Window,
)
from llenergymeasure.results.models import Energy, Tokens

CODES: tuple[WarningCode, ...] = get_args(WarningCode)
IDLE_DRIFT = 0.10


def warnings(measurement: Measurement, energy: Energy, tokens: Tokens) -> tuple[MeasurementWarning, ...]:
    """Those noticed during the run first, then those that the numbers show; each code once per message."""
    trace, passes = measurement.trace, measurement.passes
    domains = counted_domains(trace.domains, measurement.config, measurement.facts)
    found = [
        *measurement.warnings,
        *_of_energy(energy),
        *_idle_drift(measurement, domains, energy),
        *device_warnings(trace, domains, passes),
        *_gaps(measurement, domains),
        *_of_run(measurement, energy, tokens),
        *token_warnings(passes),
        *lag_warnings(passes),
        *_correlated(costs_per_output_token(trace, domains, passes)),
    ]
    return tuple(dict.fromkeys(found))


def _of_energy(energy: Energy) -> list[MeasurementWarning]:
    found = []
    short = any("window_too_short" in reading.flags for reading in energy.readings)
    if energy.total.value is None and not short:
        found.append(MeasurementWarning.of("no_energy_source", energy.total.reason or "no energy was read"))
    if energy.method == "modelled":
        found.append(
            MeasurementWarning.of(
                "energy_modelled",
                "energy is estimated from CPU time, not measured; its range is what the model allows",
            )
        )
    for reading in energy.readings:
        for flag in reading.flags:
            code = next((code for code in CODES if code == flag), None)
            if code is not None:
                meaning = MEANINGS[code].partition(". ")[0].rstrip(".")
                said = meaning[:1].lower() + meaning[1:]
                found.append(MeasurementWarning.of(code, f"{reading.domain}: {said}"))
    return found


def _idle_drift(
    measurement: Measurement, domains: Sequence[Domain], energy: Energy
) -> list[MeasurementWarning]:
    """Loaded idle before and after differ by more than a tenth, beyond what their intervals explain.

    A device that cools or slows down after its load draws more for a while; the message then says so.
    """
    before, after = energy.idle.loaded, energy.idle.after
    if energy.method == "modelled" or not before.value or after.value is None:
        return []
    doubt = (half_width(before) or 0.0) + (half_width(after) or 0.0)
    if abs(after.value - before.value) <= max(IDLE_DRIFT * before.value, doubt):
        return []
    falling = " and still falling" if after.value > before.value and _falls(measurement, domains) else ""
    message = f"{before.value:.1f} W before the passes, {after.value:.1f} W after{falling}"
    return [MeasurementWarning.of("idle_drift", message)]


def _falls(measurement: Measurement, domains: Sequence[Domain]) -> bool:
    """Whether power falls within the idle window after the passes, beyond the intervals of its halves."""
    window = measurement.idle.after
    if window is None:
        return False
    middle_ns = (window.start_ns + window.end_ns) // 2
    first, second = (
        total(
            [idle_power(measurement.trace, half, domain.name) for domain in domains],
            unit="W",
            why_none="no domain counts",
        )
        for half in (Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns))
    )
    return first.low is not None and second.high is not None and second.high < first.low


def _of_run(measurement: Measurement, energy: Energy, tokens: Tokens) -> list[MeasurementWarning]:
    found = []
    if not measurement.warm_up.steady:
        count = len(measurement.warm_up.batch_s)
        found.append(
            MeasurementWarning.of("not_steady", f"times had not settled after {count} warm-up batches")
        )
    config = measurement.config
    if len(measurement.passes) == 1:
        asked = config.cycles == 1 and config.passes.minimum == 1
        why = ", as passes.minimum=1 asks" if asked else ""
        found.append(
            MeasurementWarning.of(
                "single_pass", f"one pass{why}: chance can't be judged{_cut_short(measurement)}"
            )
        )
    target = config.passes.target
    if len(measurement.passes) > 1:
        missed = _missed(energy, target)
        is_known = energy.per_output_token.value is not None
        if missed is None and is_known and _cycles(measurement) == 1 < config.cycles:
            missed = "the interval is from passes in one process, and cycles were wanted"
        if missed is not None:
            found.append(MeasurementWarning.of("target_not_met", missed + _cut_short(measurement)))
    if tokens.pinned_ok is False:
        found.append(
            MeasurementWarning.of("output_not_pinned", "some requests did not produce just max_output_tokens")
        )
    return found


def _cut_short(measurement: Measurement) -> str:
    """What was asked for and not done, since the budget ended it before."""
    config, cycles = measurement.config, _cycles(measurement)
    if cycles < config.cycles:
        return f"; the budget ended it in cycle {cycles} of {config.cycles}"
    done, asked = len(measurement.passes), config.passes.minimum * config.cycles
    return f"; the budget ended it after {done} of {asked} passes" if done < asked else ""


def _cycles(measurement: Measurement) -> int:
    return len({one.cycle for one in measurement.passes})


def _correlated(costs: Sequence[float]) -> list[MeasurementWarning]:
    if not correlated(costs):
        return []
    said = "their interval rests on a few long batches"
    if len(costs) < ENOUGH_FOR_BATCHES:
        said = "their interval is a lower bound"
    return [MeasurementWarning.of("passes_correlated", f"neighbours among {len(costs)} are alike: {said}")]


def _gaps(measurement: Measurement, domains: Sequence[Domain]) -> list[MeasurementWarning]:
    """What the recorder missed during a pass, of itself or of a domain that counts."""
    names = {None, *(domain.name for domain in domains)}
    return [
        MeasurementWarning.of(
            "recorder_gap", f"{gap.domain or 'recorder'}: {gap.reason} ({gap.window.duration_s:.2f} s)"
        )
        for gap in measurement.trace.gaps
        if gap.domain in names
        and any(
            gap.window.start_ns < one.window.end_ns and gap.window.end_ns > one.window.start_ns
            for one in measurement.passes
        )
    ]


def _missed(energy: Energy, target: float) -> str | None:
    """Why the target is not met; None where it is, or where another warning tells that energy is missing."""
    cost = energy.per_output_token
    if cost.value is None:
        return None if energy.total.value is None else f"no joules per output token: {cost.reason}"
    if cost.value <= 0:
        return None
    width = half_width(cost)
    if width is None:
        return f"no interval: {cost.reason}"
    if width <= target * cost.value * (1 + 1e-9):
        return None
    return f"± {100 * width / cost.value:.3g} % of joules per output token, ± {100 * target:.3g} % was wanted"
