"""What did many short windows of one kind cost together, each of them too short to be measured?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.sums import Sums, sums_within, trust
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Method,
    Trace,
    Window,
)

Floats: TypeAlias = NDArray[np.float64]

_Z95 = 1.96
_LEAST_SPARE = 8
# Neighbouring intervals share the time of a step; so many are taken to hang together.
_CORRELATED = 4
# Columns that are this close to being combinations of each other can't be told apart.
_COLLINEAR = 1e-4


def joint_powers(
    trace: Trace,
    windows_by_kind: Mapping[str, Sequence[Window]],
    domain: str,
    *,
    spans: Sequence[Window] | None = None,
) -> dict[str, EnergyReading]:
    """The energy of all windows of each kind together, such as every prefill and every decode.

    Windows of one kind are taken to draw one mean power, and so is the time within `spans` that belongs to
    none; without `spans` that of all windows is the only one. What lies outside of them is left alone. Each
    interval between two steps of the counter (or two updates of a power field) then cost Σ power × overlap:
    least squares over all intervals, those with vague times weighing less. The interval comes from the
    residuals, with neighbours correlated (Newey and West, 1987); the lag of a power field is the one that
    explains it best. A kind has no value, with the reason, where there are too few steps or kinds always come
    in the same proportions. A domain's calibration, systematic bounds and flags hold as for any reading.
    Windows of one kind must not overlap.
    """
    facts = trace.domain(domain)
    every = [window for windows in windows_by_kind.values() for window in windows]
    if not every:
        raise ValueError("the energy of no window at all was asked for")
    span = Window(min(one.start_ns for one in every), max(one.end_ns for one in every))
    sums = sums_within(trace, facts, span)
    within = [
        ((one.start_ns - span.start_ns) * 1e-9, (one.end_ns - span.start_ns) * 1e-9)
        for one in spans or [span]
    ]
    kinds = [kind for kind, windows in windows_by_kind.items() if windows]
    if isinstance(sums, str):
        return {kind: _missing(facts, windows_by_kind[kind], sums) for kind in kinds}
    fitted = _over_lags([windows_by_kind[kind] for kind in kinds], span, sums, within)
    if isinstance(fitted, str):
        return {kind: _missing(facts, windows_by_kind[kind], fitted) for kind in kinds}
    return {
        kind: _reading(facts, windows_by_kind[kind], sums, (float(watts), float(sd)))
        for kind, watts, sd in zip(kinds, *fitted, strict=False)
    }


def _over_lags(
    kinds: Sequence[Sequence[Window]], span: Window, sums: Sums, within: Sequence[tuple[float, float]]
) -> tuple[Floats, Floats] | str:
    """Watts of each kind and their sd, from the intervals that lie `within` these seconds of the span; lags
    of a power field are weighed by how well they explain it.
    """
    found, misfit = [], []
    for lag_s in sums.lags_s:
        seen = sums.late_by(lag_s, within_s=span.duration_s)
        covered = [np.diff(_covered(windows, span, seen.time)) for windows in kinds]
        rest = np.diff(seen.time) - sum(covered)
        fitted = _fitted(
            np.column_stack([*covered, rest]),
            seen,
            [len(windows) for windows in kinds],
            rows=_inside(seen.time, within),
        )
        if isinstance(fitted, str):
            return fitted
        found.append(fitted[:2])
        misfit.append(fitted[2] / 2)
    weight = np.exp(min(misfit) - np.array(misfit))
    weight /= weight.sum()
    watts, sds = (np.array(column) for column in zip(*found, strict=True))
    mean = weight @ watts
    return mean, np.sqrt(weight @ (sds**2 + (watts - mean) ** 2))


def _covered(windows: Sequence[Window], span: Window, time: Floats) -> Floats:
    """Seconds of `windows` before each moment of `time`."""
    ordered = sorted(windows, key=lambda one: one.start_ns)
    edges = [edge - span.start_ns for one in ordered for edge in (one.start_ns, one.end_ns)]
    lengths = [one.duration_s for one in ordered]
    before = np.concatenate((np.zeros(1), np.repeat(np.cumsum(lengths), 2)[:-1]))
    return np.asarray(np.interp(time, np.array(edges) * 1e-9, before), dtype=np.float64)


def _inside(time: Floats, within: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Which intervals between two moments lie in one of the spans as a whole."""
    starts, ends = (np.array(edges) for edges in zip(*sorted(within), strict=True))
    first = np.searchsorted(starts, time[:-1], side="right") - 1
    return np.asarray((first >= 0) & (time[1:] <= ends[np.clip(first, 0, None)]))


def _fitted(
    design: Floats, sums: Sums, counts: Sequence[int], *, rows: NDArray[np.bool_]
) -> tuple[Floats, Floats, float] | str:
    """Watts of each column, their sd and n × log of the mean squared misfit; or why they can't be told.

    `counts` are the numbers of windows of each kind, `rows` the intervals that are used.
    """
    joules, design = np.diff(sums.total)[rows], design[rows]
    used = design.sum(axis=0) > 0
    columns = design[:, used]
    if joules.size < columns.shape[1] + _LEAST_SPARE:
        return f"{joules.size} steps of the sensor are too few to tell the kinds apart"
    scaled = columns / np.linalg.norm(columns, axis=0)
    if np.linalg.svd(scaled, compute_uv=False)[-1] ** 2 < _COLLINEAR:
        return "the kinds always come in the same proportions, so that they can't be told apart"
    watts = np.linalg.lstsq(columns, joules, rcond=None)[0]
    off = joules - columns @ watts
    misfit = joules.size * math.log(max(float(off @ off), 1e-12) / joules.size)
    root = trust(sums, off, used=rows)
    weighted, aim = columns * root[:, None], joules * root
    watts = np.linalg.lstsq(weighted, aim, rcond=None)[0]
    off = aim - weighted @ watts
    spare = joules.size - columns.shape[1]
    inverse = np.linalg.inv(weighted.T @ weighted)
    moments = weighted * off[:, None]
    middle = moments.T @ moments
    for lag in range(1, _CORRELATED + 1):
        beside = moments[lag:].T @ moments[:-lag]
        middle += (1 - lag / (_CORRELATED + 1)) * (beside + beside.T)
    robust = np.diag(inverse @ middle @ inverse)
    plain = np.diag(inverse) * float(off @ off) / joules.size
    # Errors of step times undo each other from one interval to the next, which makes sds smaller than those
    # of independent errors; few windows of a kind show too little of that, and of how they differ.
    numbers = np.array([*counts, joules.size])[used]
    variance = np.maximum(robust, plain * (0.25 + 2 / numbers)) * joules.size / spare
    wider = 1 + (_Z95**2 + 1) / (4 * spare)
    all_watts, all_sd = np.zeros(design.shape[1]), np.zeros(design.shape[1])
    all_watts[used], all_sd[used] = watts, wider * np.sqrt(variance)
    return all_watts, all_sd, misfit


def _reading(
    domain: Domain, windows: Sequence[Window], sums: Sums, power: tuple[float, float]
) -> EnergyReading:
    seconds = math.fsum(one.duration_s for one in windows)
    watts, sd = power
    joules = (domain.gain * watts + domain.offset_w) * seconds
    half = _Z95 * domain.gain * sd * seconds
    systematic = None
    if domain.systematic_gain is not None:
        offsets = domain.systematic_offset_w or (0.0, 0.0)
        low, high = (
            gain * joules + offset * seconds
            for gain, offset in zip(domain.systematic_gain, offsets, strict=True)
        )
        systematic = max(0.0, low), high
    if domain.model is not None:
        central = domain.model.w_per_busy_vcpu
        low, high = (joules * end / central for end in domain.model.w_per_busy_vcpu_range)
        systematic = min(low, high), max(low, high)
    energy = Estimate(joules, "J", joules - half, joules + half, systematic)
    span = Window(min(one.start_ns for one in windows), max(one.end_ns for one in windows))
    return EnergyReading(
        domain.name, sums.source, sums.method, span, energy, resolution_j=half, flags=domain.flags
    )


def _missing(domain: Domain, windows: Sequence[Window], reason: str) -> EnergyReading:
    span = Window(min(one.start_ns for one in windows), max(one.end_ns for one in windows))
    counted = any(quantity.unit == "J" for quantity in domain.quantities)
    method: Method = "modelled" if domain.model is not None else "counter" if counted else "sampled"
    source = domain.quantities[0].source
    return EnergyReading(domain.name, source, method, span, Estimate.missing("J", reason), flags=domain.flags)
