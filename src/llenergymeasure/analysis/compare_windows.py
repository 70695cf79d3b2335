"""Does a window of B, or a run of command B, cost more than one of A?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from llenergymeasure.analysis.codes import INVALIDATING
from llenergymeasure.analysis.compare import (
    NORMAL,
    SINGLE_PROCESS,
    Comparison,
    Side,
    refuse_differences,
    sides_with,
)
from llenergymeasure.analysis.differences import Difference
from llenergymeasure.analysis.judge import (
    ALPHA,
    Figure,
    Ratio,
    judge,
)
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.windows import NamedWindows, WindowsResult

_MODELLED = frozenset({"modelled", "mixed"})


def compare_windows(
    a: WindowsResult, b: WindowsResult, *, allow: Collection[str] = (), family: int = 1
) -> Comparison:
    """B against A: the runs of two commands, or windows of the same name and kind.

    ConfigError as `compare` has it, and where the two have no window in common.
    """
    if a.kind != b.kind:
        raise ConfigError(f"A is a result of {a.kind} and B one of {b.kind}: they have nothing in common")
    found = tuple(_differences(a, b))
    refuse_differences((a.experiment_id, a.started_at), (b.experiment_id, b.started_at), found, allow)
    pairs = _pairs(a, b)
    if not pairs:
        names = [", ".join(one.name for one in side.windows) or "none" for side in (a, b)]
        raise ConfigError(f"no window is in both: A has {names[0]}; B has {names[1]}")
    known = all(one.energy.value is not None for pair in pairs for one in pair)
    cancels = _errors_cancel(a, b) if known else None
    judged = partial(judge, single=SINGLE_PROCESS in allow, alpha=ALPHA / family)
    ratios = [
        one
        for first, second in pairs
        for one in _ratios(a, b, first, second, cancels=bool(cancels), judge=judged)
    ]
    return Comparison(
        a=_side(a),
        b=_side(b),
        allowed=found,
        settings=(),
        cancels=cancels,
        ratios=tuple(ratios),
        family=family,
    )


def _pairs(a: WindowsResult, b: WindowsResult) -> list[tuple[NamedWindows, NamedWindows]]:
    if a.kind == "command":
        return list(zip(a.windows, b.windows, strict=False))
    of_b = {(one.name, one.silent): one for one in b.windows}
    return [(one, of_b[one.name, one.silent]) for one in a.windows if (one.name, one.silent) in of_b]


def _differences(a: WindowsResult, b: WindowsResult) -> Iterator[Difference]:
    if a.method != b.method:
        yield Difference("method", str(a.method), str(b.method))
    elif a.boundary != b.boundary:
        yield Difference("boundary", str(a.boundary), str(b.boundary))
    for key, values in (
        ("driver", [[gpu.driver for gpu in one.environment.gpus] for one in (a, b)]),
        ("power_limit", [[gpu.power_limit_w for gpu in one.environment.gpus] for one in (a, b)]),
    ):
        if a.environment.gpus and b.environment.gpus and values[0] != values[1]:
            yield Difference("driver" if key == "driver" else "power_limit", *map(str, values))


def _errors_cancel(a: WindowsResult, b: WindowsResult) -> bool:
    """A sensor's gain does on the same sensors of one host; what a model of power misses depends on the work:
    it is taken to be alike where the same program did both.
    """
    sensors = [{(one.domain, one.source) for one in side.readings} for side in (a, b)]
    hosts = [(side.environment.hostname, side.environment.cpu) for side in (a, b)]
    programs = [side.program[:1] for side in (a, b)]
    named = all(domain.startswith(("gpu:", "module:")) for domain, _ in sensors[0])
    calibrated = [side.energy.systematic is None for side in (a, b)]
    same = bool(sensors[0]) and sensors[0] == sensors[1] and calibrated[0] == calibrated[1]
    alike = a.method not in _MODELLED or programs[0] == programs[1]
    return same and (named or hosts[0] == hosts[1]) and alike


def _ratios(
    a: WindowsResult,
    b: WindowsResult,
    first: NamedWindows,
    second: NamedWindows,
    *,
    cancels: bool,
    judge: Callable[..., Ratio],
) -> Iterator[Ratio]:
    each, of = ("run", "") if a.kind == "command" else ("window", f"{first.name}: ")
    codes = [[one.code for one in side.warnings if one.code in INVALIDATING] for side in (a, b)]
    withheld = tuple(sides_with(*codes))
    yield judge(
        "energy_per_window",
        f"{of}Energy per {each}".capitalize() if not of else f"{of}energy per {each}",
        *(_energy(side, one) for side, one in ((a, first), (b, second))),
        cancels=cancels,
        withheld=withheld,
    )
    yield judge(
        "seconds_per_window",
        f"Time per {each}" if not of else f"{of}time per {each}",
        *(
            Figure(
                one.seconds_each,
                _runs(side, [(at.end_ns - at.start_ns) / 1e9 for at in one.occurrences]),
                _processes(side, one),
            )
            for side, one in ((a, first), (b, second))
        ),
        cancels=True,
    )
    if first.per_output_token.value is not None and second.per_output_token.value is not None:
        yield judge(
            "energy_per_output_token",
            "Energy per output token" if not of else f"{of}energy per output token",
            *(_per_token(side, one) for side, one in ((a, first), (b, second))),
            cancels=cancels,
            withheld=withheld,
        )
    if a.kind == "command":
        yield judge(
            "peak_bytes",
            "Peak memory",
            *(
                Figure(
                    one.peak_bytes,
                    tuple(float(at.peak_bytes) for at in one.occurrences if at.peak_bytes is not None),
                    one.count,
                )
                for one in (first, second)
            ),
            # Of each it may only be known what it lies between.
            cancels=False,
        )


def _energy(side: WindowsResult, one: NamedWindows) -> Figure:
    alone = [at.energy_j for at in one.occurrences if at.energy_j is not None]
    known = alone if len(alone) == one.count else []
    return _figure(side, one, known)


def _figure(side: WindowsResult, one: NamedWindows, alone: Sequence[float]) -> Figure:
    total = one.energy.value or 0.0
    resolution = (one.independent_j or 0.0) / NORMAL / total if total > 0 else 0.0
    common = (one.common_j or 0.0) / NORMAL / total if total > 0 else 0.0
    return Figure(
        one.energy_each, _runs(side, alone), _processes(side, one), resolution=resolution, common=common
    )


def _per_token(side: WindowsResult, one: NamedWindows) -> Figure:
    alone = [
        at.energy_j / at.output_tokens
        for at in one.occurrences
        if at.energy_j is not None and at.output_tokens
    ]
    figure = _figure(side, one, alone if len(alone) == one.count else [])
    return Figure(one.per_output_token, figure.runs, figure.processes, figure.resolution, figure.common)


def _runs(side: WindowsResult, values: Sequence[float]) -> tuple[float, ...]:
    """Windows of one process are not replicates: they give no runs."""
    return tuple(values) if side.kind == "command" else ()


def _processes(side: WindowsResult, one: NamedWindows) -> int:
    return one.count if side.kind == "command" else 1


def _side(side: WindowsResult) -> Side:
    runs = side.windows[0].count if side.kind == "command" and side.windows else 1
    return Side(side.experiment_id, runs, side.method in _MODELLED, side.warnings)
