"""What weakens the numbers of a run: each finding is one of the closed list of codes, with its remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from typing import get_args

from llenergymeasure.analysis.codes import MEANINGS
from llenergymeasure.analysis.estimates import total
from llenergymeasure.analysis.health import device_warnings
from llenergymeasure.analysis.latency import has_due_times, lag_warnings
from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.analysis.server import server_part, server_warnings
from llenergymeasure.analysis.statistics import ENOUGH_FOR_BATCHES, correlated, drift
from llenergymeasure.analysis.tokens import token_warnings
from llenergymeasure.energy.joules.quiet import idle_power
from llenergymeasure.records import FailedRun, Measurement, MeasurementWarning, Pass, WarningCode, Window
from llenergymeasure.results.models import Energy, Tokens

CODES: tuple[WarningCode, ...] = get_args(WarningCode)
IDLE_DRIFT = 0.10
_CALIBRATED_DAYS = 366


def warnings(
    energies: Sequence[RunEnergy], energy: Energy, tokens: Tokens, *, leads: int, failed: Sequence[FailedRun]
) -> tuple[MeasurementWarning, ...]:
    """Those of each run first, then those that the numbers show; each code once per message."""
    measurements = [one.measurement for one in energies]
    passes = [one for measurement in measurements for one in measurement.passes]
    found = [
        *_by_run([(one.measurement.index, _of_one(one)) for one in energies], len(energies)),
        *_of_energy(energy),
        *(MeasurementWarning.of("domain_missing", f"{one.domain}: {one.reason}") for one in energy.lacks),
        *_of_experiment(energies, energy, tokens, failed=failed),
        *token_warnings(passes),
        *server_warnings(server_part(measurements), measurements),
        *lag_warnings(measurements),
        *_over_passes(energies, leads=leads),
    ]
    return tuple(dict.fromkeys(found))


def _of_one(one: RunEnergy) -> list[MeasurementWarning]:
    """What one run alone shows."""
    seen = one.measurement
    return [
        *seen.warnings,
        *_idle_drift(one),
        *device_warnings(seen.trace, one.domains, seen.passes),
        *_gaps(one),
        *_not_steady(seen),
        *_old_calibrations(one),
    ]


def _old_calibrations(one: RunEnergy) -> Iterator[MeasurementWarning]:
    for domain in one.domains:
        if domain.calibrated is None:
            continue
        try:
            began, since = (
                date.fromisoformat(text[:10])
                for text in (one.measurement.started.utc, domain.calibrated.when)
            )
        except ValueError:
            continue
        if (began - since).days > _CALIBRATED_DAYS:
            text = f"{domain.name}: calibrated on {since.isoformat()}"
            yield MeasurementWarning.of("calibration_old", text)


def _by_run(
    found: Sequence[tuple[int, Sequence[MeasurementWarning]]], runs: int
) -> Iterator[MeasurementWarning]:
    """One warning for each code and thing, with the runs that raised it where not the only one did."""
    first: dict[tuple[str, str], MeasurementWarning] = {}
    raised: dict[tuple[str, str], list[int]] = {}
    for index, mine in found:
        for one in mine:
            # what it is about comes before a colon, and figures differ from run to run
            key = (one.code, one.message.partition(":")[0] if ": " in one.message else "")
            first.setdefault(key, one)
            if index not in raised.setdefault(key, []):
                raised[key].append(index)
    for about, one in first.items():
        which = f"in run {', '.join(map(str, raised[about]))}"
        if len(raised[about]) == runs:
            which = "in every run"
        yield one if runs == 1 else MeasurementWarning.of(one.code, f"{one.message}; {which}")


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
        for code in [code for flag in reading.flags for code in CODES if code == flag]:
            meaning = MEANINGS[code].partition(". ")[0].rstrip(".")
            text = f"{reading.domain}: {meaning[:1].lower()}{meaning[1:]}"
            found.append(MeasurementWarning.of(code, text))
    return found


def _idle_drift(one: RunEnergy) -> list[MeasurementWarning]:
    """Loaded idle before and after differ by more than a tenth, beyond what their intervals explain.

    A device that cools or slows down after its load draws more for a while; the message then says so.
    """
    before, after = one.loaded, one.after
    modelled = any(domain.model is not None for domain in one.domains)
    if modelled or not before.value or after.value is None:
        return []
    unclear = (before.half_width or 0.0) + (after.half_width or 0.0)
    if abs(after.value - before.value) <= max(IDLE_DRIFT * before.value, unclear):
        return []
    falling = " and still falling" if after.value > before.value and _falls(one) else ""
    message = f"{before.value:.1f} W before the passes, {after.value:.1f} W after{falling}"
    return [MeasurementWarning.of("idle_drift", message)]


def _falls(one: RunEnergy) -> bool:
    """Whether power falls within the idle window after the passes, beyond the intervals of its halves."""
    window = one.measurement.idle.after
    if window is None:
        return False
    middle_ns = (window.start_ns + window.end_ns) // 2
    first, second = (
        total(
            [idle_power(one.measurement.trace, half, domain.name) for domain in one.domains],
            unit="W",
            why_none="no domain counts",
        )
        for half in (Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns))
    )
    return first.low is not None and second.high is not None and second.high < first.low


def _not_steady(seen: Measurement) -> list[MeasurementWarning]:
    found = []
    count = len(seen.warm_up.batch_s)
    if seen.config.is_stream and has_due_times(seen.config) and _is_outrun(seen.passes):
        grown = seen.passes[-1].served, seen.passes[0].served
        last, first = (0.0 if one is None else one.in_flight_mean for one in grown)
        found.append(
            f"requests arrive faster than they are answered: {first:.3g} were on their way in the first "
            f"window, {last:.3g} in the last"
        )
    if not seen.warm_up.steady:
        found.append(
            f"the load had not settled within the warm-up of {seen.warm_up.window.duration_s:.3g} s"
            if seen.config.is_stream
            else f"times had not settled after {count} warm-up {'batch' if count == 1 else 'batches'}"
        )
    return [MeasurementWarning.of("not_steady", message) for message in found]


def _is_outrun(passes: Sequence[Pass]) -> bool:
    """Whether the number of requests on their way grows from window to window, by more than random arrivals
    make it (3 standard deviations of a Poisson number), and by a fiftieth of those that were sent.
    """
    served = [(one.served, len(one.generation.completions)) for one in passes]
    known = [(one, ended) for one, ended in served if one is not None]
    grows = all(left.in_flight_mean < right.in_flight_mean for (left, _), (right, _) in pairwise(known))
    sent, ended = sum(one.sent for one, _ in known), sum(count for _, count in known)
    usual = math.sqrt(min(one.in_flight_mean for one, _ in known) + 1)
    return grows and sent - ended > max(0.02 * sent, 3 * usual)


def _of_experiment(
    energies: Sequence[RunEnergy], energy: Energy, tokens: Tokens, *, failed: Sequence[FailedRun]
) -> Iterator[MeasurementWarning]:
    config, runs = energies[0].measurement.config, len(energies)
    passes = len(energies[0].measurement.passes)
    if runs == 1:
        why = "" if config.repeats.count == 1 else f", and {config.repeats.count} were asked for"
        yield MeasurementWarning.of(
            "single_process",
            f"one run{why}: its interval holds within this process; another may differ by more",
        )
        if passes == 1:
            yield MeasurementWarning.of("single_pass", "one pass in one run: scatter cannot be determined")
    if len(places := dict.fromkeys(one.place for one in energies)) > 1:
        yield MeasurementWarning.of(
            "places_differ", f"the runs read the sensors of {len(places)} places: {', '.join(places)}"
        )
    target = config.repeats.target if config.repeats.count > 1 else config.passes.target
    ended = [one for one in failed if one.outcome == "interrupted"]
    for one in ended:
        said = f"run {one.index} was interrupted ({one.message})"
        said += f": {runs} of {config.repeats.count} repeats were measured"
        yield MeasurementWarning.of("interrupted", said)
    few = runs + len(failed) < config.repeats.count or (runs == 1 and passes < config.passes.count)
    if target is not None and (missed := _missed(energy, target)) is not None:
        yield MeasurementWarning.of("target_not_met", missed)
    elif few and not ended:
        done = f"{runs} of {config.repeats.count} repeats"
        if config.repeats.count == 1:
            done = f"{passes} of {config.passes.count} passes"
        yield MeasurementWarning.of("target_not_met", f"{done} were measured")
    if tokens.failed:
        whole = tokens.failed + tokens.requests
        yield MeasurementWarning.of("requests_failed", f"{tokens.failed} of {whole} requests failed")
    if tokens.pinned_ok is False:
        yield MeasurementWarning.of(
            "output_not_pinned", "some requests did not produce just the tokens that they asked for"
        )


def _over_passes(energies: Sequence[RunEnergy], *, leads: int) -> list[MeasurementWarning]:
    """Whether passes that follow one another resemble each other, or costs move from the first to the last.

    Over several runs a move counts where their passes, taken together by position, show it, and where it is
    more than the edges of the passes' shares leave open.
    """
    found = []
    costs = [_costs(one, leads=leads) for one in energies]
    if len(energies) == 1 and correlated(costs[0]):
        said = "their interval rests on a few long batches"
        if len(costs[0]) < ENOUGH_FOR_BATCHES:
            said = "their interval is a lower bound"
        found.append(
            MeasurementWarning.of("passes_correlated", f"neighbours among {len(costs[0])} are alike: {said}")
        )
    moved = drift(costs)
    if moved is not None and abs(moved) > max(one.ends_apart for one in energies):
        what = "joules per output token" if all(one.shares for one in energies) else "time per output token"
        found.append(
            MeasurementWarning.of(
                "drift", f"{what} {'rises' if moved > 0 else 'falls'} by {abs(moved):.1%} over the passes"
            )
        )
    return found


def _costs(one: RunEnergy, *, leads: int) -> list[float]:
    """Of each pass per output token. Where a counter's lag is not known the first and the last pass have
    some of what was before and after the block, and say nothing of how passes differ. Amid a running load
    that was the same.
    """
    if one.measurement.config.is_stream:
        return one.costs
    shared = [block for block in one.of("full") if len(block.block.passes) > 1]
    parts = [part for block in shared for part in block.spent.values()]
    unclear = any(part.method == "counter" and part.lag_s is None for part in parts)
    return one.costs[1:-1] if unclear else one.costs[leads:]


def _gaps(one: RunEnergy) -> list[MeasurementWarning]:
    """What the recorder missed during a pass, of itself or of a domain that counts."""
    names = {None, *(domain.name for domain in one.domains)}
    return [
        MeasurementWarning.of(
            "recorder_gap", f"{gap.domain or 'recorder'}: {gap.reason} ({gap.window.duration_s:.2f} s)"
        )
        for gap in one.measurement.trace.gaps
        if gap.domain in names
        and any(
            gap.window.start_ns < each.window.end_ns and gap.window.end_ns > each.window.start_ns
            for each in one.measurement.passes
        )
    ]


def _missed(energy: Energy, target: float) -> str | None:
    """Why the target is not met; None where it is, or where another warning reports missing energy."""
    cost = energy.per_output_token
    if cost.value is None:
        return None if energy.total.value is None else f"no joules per output token: {cost.reason}"
    if cost.value <= 0:
        return None
    width = cost.half_width
    if width is None:
        return f"no interval: {cost.reason}"
    if width <= target * cost.value * (1 + 1e-9):
        return None
    return f"± {100 * width / cost.value:.3g} % of joules per output token, ± {100 * target:.3g} % was wanted"
