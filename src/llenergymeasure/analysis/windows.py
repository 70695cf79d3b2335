"""What did the windows in somebody's own code cost, or the runs of a command?

Long because one result is made here, from its marks to its warnings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from llenergymeasure.analysis.codes import INVALIDATING, MEANINGS
from llenergymeasure.analysis.estimates import ratio_over_passes, too_few
from llenergymeasure.analysis.health import device_warnings
from llenergymeasure.analysis.run_energy import NO_SOURCE, chosen_domains
from llenergymeasure.energy.boundary import NESTED
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pool import added, boundary, estimate, reading
from llenergymeasure.energy.joules.pooled import pooled_energy
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.sources import SHORTEST_S
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Generation,
    Marked,
    MeasurementWarning,
    Pass,
    Recording,
    RecordingKind,
    Trace,
    WarningCode,
    Window,
)
from llenergymeasure.records.figures import plain
from llenergymeasure.results.models import OverheadPart
from llenergymeasure.results.windows import NamedWindows, Occurrence, WindowsResult, WithinBoundary

# More of them are not listed one by one.
MOST_LISTED = 1_000
# A single window means something where its edges leave open no more than this part of it.
_MEANS_SOMETHING = 0.1
_NO_TOKENS = "no tokens were stated: w.tokens(prompt=…, output=…)"
_NO_TOKENS_FOUND = "no tokens were found in the command's output: --tokens REGEX"


def windows_result(seen: Recording) -> WindowsResult:
    """The same recording gives the same numbers, bit for bit."""
    asked, within = seen.energy.gpus != "auto", seen.energy.boundary
    domains = chosen_domains(seen.trace.domains, seen.gpu_uuids, asked=asked, boundary=within)
    why_none = NO_SOURCE
    if not seen.trace.domains and any(one.code == "recorder_lost" for one in seen.warnings):
        why_none = "the recorder ended before it had written what it read"
    if not domains and seen.trace.domains:
        names = ", ".join(domain.name for domain in seen.trace.domains)
        if within not in {"auto", "gpu"}:
            why_none = f"energy.boundary is {within}, and only {names} can be read"
        else:
            why_none = (
                f'the program used none of the GPUs that were read ({names}); to count them: gpus="all"'
            )
    named = [_named(seen, domains, marks, why_none=why_none) for marks in _by_name(seen.marked)]
    whole = {domain.name: window_energy(seen.trace, domain.name, seen.whole) for domain in domains}
    readings = tuple(reading(name, seen.whole, [spent]) for name, spent in whole.items())
    total = estimate(added(list(whole.values()))) if whole else Estimate.missing("J", why_none)
    found = tuple(dict.fromkeys(_warnings(seen, domains, named, total, readings)))
    reasons = [f"{one.code}: {one.message}" for one in found if one.code in INVALIDATING]
    if all(one.energy.value is None for one in named) and total.value is None:
        reasons.append(f"no_energy_source: {total.reason}")
    seen_only = [one.name for one in seen.trace.domains if one not in domains]
    return WindowsResult(
        kind=seen.kind,
        experiment_id=seen.experiment_id,
        program=seen.program,
        energy_config=seen.energy,
        started_at=seen.started,
        environment=seen.environment,
        duration_s=seen.whole.duration_s,
        boundary=boundary(readings),
        method=_method(readings),
        valid=not reasons,
        reasons=tuple(dict.fromkeys(reasons)),
        energy=total,
        readings=readings,
        windows=tuple(named),
        warnings=found,
        overhead=OverheadPart(
            recorder_cpu_s=seen.overhead.recorder_cpu_s,
            recorder_samples=seen.overhead.recorder_samples,
            setup_s=seen.overhead.setup_s,
            load_s=0.0,
            warmup_s=0.0,
        ),
        notes=(*seen.notes, *(f"{name} was seen and not counted" for name in seen_only)),
    )


def _by_name(marked: Sequence[Marked]) -> Iterator[list[Marked]]:
    """The windows of each name in order of time; those between silences apart from the others."""
    found: dict[tuple[str, bool], list[Marked]] = {}
    for one in sorted(marked, key=lambda one: one.window.start_ns):
        found.setdefault((one.name, one.silences is not None), []).append(one)
    yield from found.values()


def _named(
    seen: Recording, domains: Sequence[Domain], marks: Sequence[Marked], *, why_none: str
) -> NamedWindows:
    spans = _union(marks)
    parts = _parts(seen.trace, domains, marks, spans)
    spent = added([added(one) for one in parts.values()]) if parts else None
    energy = Estimate.missing("J", why_none) if spent is None else estimate(spent)
    each = _each(parts, marks, spans)
    seconds = [one.window.duration_s for one in marks]
    busy_s = math.fsum(span.duration_s for span in spans)
    ones = [1] * len(marks)
    prompt, output = _sum(one.prompt_tokens for one in marks), _sum(one.output_tokens for one in marks)
    counts = [[one.output_tokens for one in marks], [_both(one) for one in marks]]
    no_tokens = _NO_TOKENS if seen.kind == "windows" else _NO_TOKENS_FOUND
    whole = Window(spans[0].start_ns, spans[-1].end_ns)
    overlapping = len(marks) - len(spans) if spans != [one.window for one in marks] else 0
    return NamedWindows(
        name=marks[0].name,
        silent=marks[0].silences is not None,
        count=len(marks),
        failed=sum(one.error is not None or one.exit_code not in {None, 0} for one in marks),
        overlapping=overlapping,
        duration_s=busy_s,
        seconds_each=ratio_over_passes(seconds, ones, unit="s")
        if sum(seconds)
        else Estimate(0.0, "s", reason="no time passed in it"),
        energy=energy,
        energy_each=_per(energy, spent, each, ones, unit="J"),
        power=energy.times(1 / busy_s, "W") if busy_s else Estimate.missing("W", "no time passed in it"),
        prompt_tokens=prompt,
        output_tokens=output,
        per_output_token=_per(energy, spent, each, counts[0], unit="J/token", why_none=no_tokens),
        per_total_token=_per(
            energy, spent, each, counts[1], unit="J/token", why_none=_one_side(prompt, output) or no_tokens
        ),
        peak_bytes=_peak(marks, seen.kind),
        least_s=_least_s(parts, marks, spans),
        independent_j=None if spent is None or spent.joules is None else spent.independent_j,
        common_j=None if spent is None or spent.joules is None else spent.common_j,
        readings=tuple(reading(name, whole, part) for name, part in parts.items()),
        boundaries=_boundaries(seen, marks, spans),
        occurrences=tuple(_occurrence(one, each, at) for at, one in enumerate(marks))
        if len(marks) <= MOST_LISTED
        else (),
    )


def _boundaries(
    seen: Recording, marks: Sequence[Marked], spans: Sequence[Window]
) -> tuple[WithinBoundary, ...]:
    """Each boundary that was read, from the inside out; nothing where that is only one."""
    asked = seen.energy.gpus != "auto"
    found = {
        chosen_domains(seen.trace.domains, seen.gpu_uuids, asked=asked, boundary=name): None
        for name in NESTED
    }
    several = [domains for domains in found if domains]
    if len(several) < 2:
        return ()
    return tuple(_within(_parts(seen.trace, domains, marks, spans), marks, spans) for domains in several)


def _within(
    parts: Mapping[str, Sequence[Spent]], marks: Sequence[Marked], spans: Sequence[Window]
) -> WithinBoundary:
    spent = added([added(one) for one in parts.values()])
    energy, whole = estimate(spent), Window(spans[0].start_ns, spans[-1].end_ns)
    readings = tuple(reading(name, whole, part) for name, part in parts.items())
    return WithinBoundary(
        boundary=boundary(readings) or "",
        method=_method(readings),
        energy=energy,
        energy_each=_per(energy, spent, _each(parts, marks, spans), [1] * len(marks), unit="J"),
        readings=readings,
    )


def _union(marks: Sequence[Marked]) -> list[Window]:
    """Their time, in which two that overlap count once: no sensor tells their energies apart."""
    spans: list[Window] = []
    for one in marks:
        if spans and one.window.start_ns < spans[-1].end_ns:
            spans[-1] = Window(spans[-1].start_ns, max(spans[-1].end_ns, one.window.end_ns))
        else:
            spans.append(one.window)
    return spans


def _parts(
    trace: Trace, domains: Sequence[Domain], marks: Sequence[Marked], spans: Sequence[Window]
) -> dict[str, list[Spent]]:
    return {domain.name: _spent(trace, domain, marks, spans) for domain in domains}


def _spent(trace: Trace, domain: Domain, marks: Sequence[Marked], spans: Sequence[Window]) -> list[Spent]:
    """Of each block between its silences; of windows without silences all together."""
    if len(spans) == len(marks) and all(one.silences is not None for one in marks):
        return [
            block_energy(
                trace, domain.name, before=one.silences[0], passes=[one.window], after=one.silences[1]
            )
            for one in marks
            if one.silences is not None
        ]
    return [pooled_energy(trace, domain.name, spans)]


def _each(
    parts: Mapping[str, Sequence[Spent]], marks: Sequence[Marked], spans: Sequence[Window]
) -> list[float] | None:
    """Joules of each window over all domains; None where they overlap, or one alone says nothing."""
    if not parts or len(spans) != len(marks):
        return None
    by_domain = []
    for one in parts.values():
        shares = [share for part in one for share in (part.shares or ())]
        short = min(span.duration_s for span in spans) < SHORTEST_S
        if len(shares) != len(marks) or (short and any(part.method != "modelled" for part in one)):
            return None
        by_domain.append(shares)
    return [math.fsum(each) for each in zip(*by_domain, strict=True)]


def _per(
    energy: Estimate,
    spent: Spent | None,
    each: Sequence[float] | None,
    counts: Sequence[int | None],
    *,
    unit: str,
    why_none: str = "",
) -> Estimate:
    """Energy per thing: by scatter over the windows where each is known and there are three, at least what
    the sensor leaves open; else with what it leaves open alone.
    """
    known = [count for count in counts if count is not None]
    if energy.value is None or spent is None:
        return Estimate.missing(unit, energy.reason or "the energy is unknown")
    if len(known) < len(counts):
        partly = f"{len(counts) - len(known)} of {len(counts)} windows state no tokens"
        return Estimate.missing(unit, partly if known else why_none)
    if not sum(known):
        return Estimate.missing(unit, "nothing was produced")
    if each is not None and len(each) >= 3 and min(known) > 0 and min(each) > 0:
        ratio = ratio_over_passes(
            each,
            known,
            unit=unit,
            resolution=spent.independent_j / energy.value if energy.value > 0 else 0.0,
            common=spent.common_j / energy.value if energy.value > 0 else 0.0,
        )
        ends = energy.systematic and (
            energy.systematic[0] / sum(known),
            energy.systematic[1] / sum(known),
        )
        return Estimate(ratio.value, unit, ratio.low, ratio.high, ends, ratio.reason)
    mean = energy.times(1 / sum(known), unit)
    if len(known) >= 3 or energy.low is None:
        return mean
    return _of_few(mean, len(known))


def _of_few(mean: Estimate, count: int) -> Estimate:
    """Without an interval of scatter; none where what the edges leave open is all there is."""
    assert mean.value is not None
    half = 0.0 if mean.low is None or mean.high is None else (mean.high - mean.low) / 2
    if half > mean.value:
        left_open = f"what its edges leave open, ± {plain(half, mean.unit)}, is more than it used"
        return Estimate.missing(mean.unit, left_open)
    return Estimate(mean.value, mean.unit, systematic=mean.systematic, reason=too_few(count))


def _peak(marks: Sequence[Marked], kind: RecordingKind) -> Estimate:
    """Mean peak of the runs of a command."""
    peaks = [one.peak_bytes for one in marks if one.peak_bytes is not None]
    if not peaks:
        reason = "the peak of one window cannot be separated from that of its process"
        if kind == "command":
            reason = "each run ended before its memory was seen, and was below the 10 MB of what starts it"
        return Estimate.missing("bytes", reason)
    peak = ratio_over_passes(peaks, [1] * len(peaks), unit="bytes")
    if not any(one.peak_below_bytes for one in marks):
        return peak
    # Between two looks it may have been higher, and a process below the command's first is not looked at.
    most = [max(one.peak_bytes or 0, one.peak_below_bytes or 0) for one in marks]
    return replace(peak, systematic=(math.fsum(peaks) / len(peaks), math.fsum(most) / len(most)))


def _least_s(
    parts: Mapping[str, Sequence[Spent]], marks: Sequence[Marked], spans: Sequence[Window]
) -> float | None:
    """From which length on the edges of a single window, and the lag, leave open a tenth of its energy."""
    if marks[0].silences is not None or not parts:
        return None
    found = []
    for one in parts.values():
        joules = sum(part.joules or 0.0 for part in one)
        halves = [half for part in one for half in part.share_half_widths]
        seconds = math.fsum(span.duration_s for span in spans)
        if not halves or joules <= 0 or seconds <= 0:
            return None
        found.append(sorted(halves)[len(halves) // 2] / (joules / seconds) / _MEANS_SOMETHING)
    return max(found)


def _occurrence(one: Marked, each: Sequence[float] | None, at: int) -> Occurrence:
    return Occurrence(
        start_ns=one.window.start_ns,
        end_ns=one.window.end_ns,
        energy_j=None if each is None else each[at],
        prompt_tokens=one.prompt_tokens,
        output_tokens=one.output_tokens,
        error=one.error,
        peak_bytes=one.peak_bytes,
        exit_code=one.exit_code,
    )


def _both(one: Marked) -> int | None:
    if one.prompt_tokens is None or one.output_tokens is None:
        return None
    return one.prompt_tokens + one.output_tokens


def _one_side(prompt: int | None, output: int | None) -> str | None:
    """Why there is no total, where it is not for lack of both counts."""
    if (prompt is None) == (output is None):
        return None
    known, missing = ("output", "prompt") if prompt is None else ("prompt", "output")
    return f"only {known} tokens are known, and no {missing} tokens"


def _sum(counts: Iterator[int | None]) -> int | None:
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if known and len(known) == len(found) else None


def _method(
    readings: Sequence[EnergyReading],
) -> Literal["counter", "sampled", "modelled", "mixed"] | None:
    methods = {one.method for one in readings}
    if len(methods) > 1:
        return "mixed" if "modelled" in methods else "sampled"
    return methods.pop() if methods else None


def _warnings(
    seen: Recording,
    domains: Sequence[Domain],
    named: Sequence[NamedWindows],
    total: Estimate,
    readings: Sequence[EnergyReading],
) -> Iterator[MeasurementWarning]:
    yield from seen.warnings
    if not domains or (total.value is None and all(one.energy.value is None for one in named)):
        yield MeasurementWarning.of("no_energy_source", total.reason or "no energy was read")
    if any(one.method == "modelled" for one in readings):
        # These have no --set.
        refusing = "Monitor(require_measured=True)" if seen.kind == "windows" else "--meter nvml, or rapl"
        yield MeasurementWarning(
            "energy_modelled",
            "energy is estimated from CPU time, not measured; its range is what the model allows",
            "for measured joules use a machine with NVML or readable RAPL; "
            f"to refuse modelled ones: {refusing}",
        )
    for name, count in (seen.left_open or {}).items():
        left = "1 window did: it is" if count == 1 else f"{count} windows did: they are"
        yield MeasurementWarning.of("window_open", f"{name}: the recording ended before {left} left out")
    yield from device_warnings(
        seen.trace, domains, [Pass(one.window, 1, Generation(())) for one in seen.marked[:MOST_LISTED]]
    )
    for one in named:
        yield from _of_flags(one)
        if seen.kind == "command" and one.failed:
            yield MeasurementWarning.of(
                "command_failed", f"{one.failed} of {one.count} runs of {one.name} did not end with 0"
            )


def _of_flags(one: NamedWindows) -> Iterator[MeasurementWarning]:
    codes: tuple[WarningCode, ...] = get_args(WarningCode)
    for part in one.readings:
        short = one.least_s is not None and one.duration_s < one.count * one.least_s
        if "window_too_short" in part.flags or (short and part.method != "modelled"):
            yield _too_short(one, part)
        for code in [code for flag in part.flags for code in codes if code == flag]:
            if code == "window_too_short":
                continue
            meaning = MEANINGS[code].partition(". ")[0].rstrip(".")
            yield MeasurementWarning.of(
                code, f"{one.name}, {part.domain}: {meaning[:1].lower()}{meaning[1:]}"
            )


def _too_short(one: NamedWindows, part: EnergyReading) -> MeasurementWarning:
    enough = "" if one.least_s is None else f"; a single one is known to ± 10 % from {one.least_s:.2g} s on"
    each_s = one.duration_s / one.count
    return MeasurementWarning.of(
        "window_too_short",
        f"{one.name}, {part.domain}: {one.count} of {each_s:.2g} s, {one.duration_s:.2g} s in all{enough}",
    )
