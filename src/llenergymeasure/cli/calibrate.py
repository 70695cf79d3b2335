"""`llem calibrate`: what has to be made of a board's readings, and how late is its counter?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._progress import steps_shown
from llenergymeasure.cli._streams import print_json, print_lines
from llenergymeasure.doctor.calibrate import Asked, Calibrated, calibrate_gpu, calibrate_simulated
from llenergymeasure.doctor.characterise import READ_S
from llenergymeasure.doctor.counter import CheckedCounter, check_counters, check_simulated
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Progress
from llenergymeasure.records.figures import plain


@dataclass(frozen=True, slots=True)
class Options:
    against: str | None
    accuracy: float | None
    efficiency: str | None
    rest: str | None
    gpu: str | None
    check: bool
    simulated: bool

    def refuse_idle(self) -> None:
        """ConfigError where an option would have no say."""
        of_reference = {
            "--against": self.against,
            "--accuracy": self.accuracy,
            "--efficiency": self.efficiency,
            "--rest": self.rest,
        }
        said = [option for option, value in of_reference.items() if value is not None]
        if self.check and said:
            raise ConfigError(f"--check needs no reference: leave out {', '.join(said)}")
        if self.simulated and self.gpu is not None:
            said.append("--gpu")
        if self.simulated and said:
            raise ConfigError(
                f"--simulated has a board and a reference of its own: leave out {', '.join(said)}",
                hint="llem calibrate --simulated, or with --check",
            )


def calibrate(options: Options, *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        options.refuse_idle()
        with steps_shown() as progress:
            found = _checked(options, progress) if options.check else _calibrated(options, progress)
        if as_json:
            print_json(found)
        elif isinstance(found, Calibrated):
            print_lines(_calibration_lines(found))
        else:
            print_lines([line for one in found for line in _counter_lines(one)])


def _checked(options: Options, progress: Progress) -> tuple[CheckedCounter, ...]:
    return check_simulated() if options.simulated else check_counters(progress, options.gpu)


def _calibrated(options: Options, progress: Progress) -> Calibrated:
    if options.simulated:
        return calibrate_simulated()
    if options.against is None or options.accuracy is None:
        raise ConfigError(
            "a calibration needs a reference and its stated accuracy",
            hint="llem calibrate --against analyser.csv --accuracy 0.2 (in per cent), or --check",
        )
    share = _range(options.efficiency, most=100, problem="--efficiency {!r} is not two percentages: 90:95")
    rest_w = _range(options.rest, most=1e6, problem="--rest {!r} is not two numbers of watts: 110:125")
    if rest_w is not None and share is None:
        raise ConfigError("--rest needs a reference that sees the machine", hint="state --efficiency too")
    efficiency = None if share is None else (share[0] / 100, share[1] / 100)
    return calibrate_gpu(
        Asked(options.against, options.accuracy / 100, options.gpu, efficiency, rest_w), progress
    )


def _range(text: str | None, *, most: float, problem: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high <= most:
        message, _, example = problem.format(text).rpartition(": ")
        raise ConfigError(message, hint=f"such as {example}, the lowest and the highest that it may be")
    return low, high


def _calibration_lines(found: Calibrated) -> Iterator[str]:
    known, steps = found.calibration, found.steps
    lowest, highest = (pick(one.board_w for one in steps) for pick in (min, max))
    gain, offset = (1.96 * (one or 0.0) ** 0.5 for one in (known.gain_variance, known.offset_variance))
    yield f"{found.gpu.name or 'GPU'} ({found.gpu.uuid})"
    yield f"  true = {known.gain:.4f} × read {known.offset_w:+.2f} W"
    yield f"  gain    {known.gain:.4f} ± {gain:.4f}"
    why = found.why_no_offset
    yield f"  offset  {known.offset_w:+.2f} ± {offset:.2f} W" + (
        "" if why is None else ", that of any board:"
    )
    if why is not None:
        yield f"          {why}"
    if known.covariance and known.gain_variance and known.offset_variance:
        both = known.covariance / (known.gain_variance * known.offset_variance) ** 0.5
        yield f"  correlation {both:+.2f}"
    yield f"  against {known.against} (stated accuracy ± {known.accuracy or 0.0:.2%}), on {known.when}"
    yield f"  from {len(steps)} steps, {plain(lowest, 'W')} to {plain(highest, 'W')} as read"
    yield "  " + ("not saved" if found.kept_in is None else f"saved in {found.kept_in}")


def _counter_lines(found: CheckedCounter) -> Iterator[str]:
    yield f"{found.gpu.name or 'GPU'} ({found.gpu.uuid})"
    times = found.characteristics
    if times is None:
        yield f"  unknown: {found.reason}"
        return
    step = "an unknown time" if times.step_ns is None else plain(times.step_ns / 1e9, "s")
    lag = "an unknown time" if times.lag_ns is None else plain(times.lag_ns / 1e9, "s")
    if times.lag_ns is not None and times.lag_ns < READ_S * 1e9:
        lag = f"less than {plain(READ_S, 's')}, the time between reads"
    yield f"  {found.source} steps every {step} and is late by {lag}"
    if times.window_ns is None:
        yield "  no beat with square waves near its period: it counts all of the time"
    else:
        yield f"  it beats with square waves near its period: it looks at {found.looks_at:.0%} of the time"
    yield "  " + ("not saved" if found.kept_in is None else f"saved in {found.kept_in}")
