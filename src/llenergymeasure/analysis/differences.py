"""In what do two results differ, and which of that would a ratio of their costs compare too?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import JsonValue

from llenergymeasure.analysis.health import CLOCK_CHANGE, LIMIT_CHANGE_W
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ENGINES
from llenergymeasure.records import Estimate, GpuFacts
from llenergymeasure.results.models import ExperimentResult

Key: TypeAlias = Literal[
    "unit",
    "simulated",
    "method",
    "boundary",
    "model",
    "workload",
    "tokens",
    "driver",
    "power_limit",
    "clocks",
]
FigureName: TypeAlias = Literal[
    "energy_per_output_token",
    "output_tokens_per_second",
    "ttft_s",
    "tpot_s",
    "peak_bytes",
    "accuracy",
    "energy_per_correct_answer",
    "energy_per_window",
    "seconds_per_window",
]

# What each key means, in the order in which differences are named.
KEYS: Mapping[Key, str] = {
    "unit": "units",
    "simulated": "where the numbers come from",
    "method": "how energy is known",
    "boundary": "what the energy takes in",
    "model": "model",
    "workload": "prompts",
    "tokens": "tokens per request",
    "driver": "driver",
    "power_limit": "power limit",
    "clocks": "clocks during the passes",
}
UNKNOWN = "unknown"
# Settings that say how well a cost is known, or where it is put, and not what it is of.
_MEASURING = {
    *("passes", "repeats", "warmup", "baseline", "energy", "footprint", "preset", "timeout_s", "output_dir")
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which the two differ, so that a ratio would compare it too."""

    key: Key
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that was configured or loaded differently in A and B: what a ratio of them is about."""

    name: str
    a: JsonValue
    b: JsonValue


def settings(a: ExperimentResult, b: ExperimentResult) -> tuple[Setting, ...]:
    """What was configured differently, by dotted names, and the bytes of weights where they differ.

    The options of two engines have nothing in common: of those the given ones are listed, and both batch
    sizes.
    """
    same_engine = a.config.backend == b.config.backend
    of_a, of_b = (configured(result, options=same_engine) for result in (a, b))
    names = dict.fromkeys((*of_a, *of_b))
    found = [
        Setting(name, of_a.get(name), of_b.get(name)) for name in names if of_a.get(name) != of_b.get(name)
    ]
    weights = a.memory.weights_bytes, b.memory.weights_bytes
    known = [one for one in weights if one is not None]
    # Engines count small buffers among the weights or not.
    if len(known) == 1 or (len(known) == 2 and not math.isclose(*known, rel_tol=1e-3)):
        found.append(Setting("weights_bytes", *weights))
    return tuple(found)


def configured(result: ExperimentResult, *, options: bool) -> dict[str, JsonValue]:
    config = result.config
    engines = {*ENGINES, *(config.model_extra or {})}
    asked = config.model_dump(mode="json", exclude=_MEASURING if options else _MEASURING | engines)
    if not options:
        given = config.model_dump(mode="json", include=engines, exclude_defaults=True)
        asked |= {name: part for name, part in given.items() if part}
    flat = dict(pair for name, part in asked.items() for pair in leaves(part, name))
    if not options:
        flat = {name: value for name, value in flat.items() if not name.endswith(".batch_size")}
        flat["batch_size"] = config.batch_size
    return flat


def differences(a: ExperimentResult, b: ExperimentResult) -> Iterator[Difference]:
    """Everything of `KEYS` in which the two differ. Unknown differs from known, but not from unknown."""
    pairs = zip(compared_estimates(a).values(), compared_estimates(b).values(), strict=True)
    units = [(of_a.unit, of_b.unit) for of_a, of_b in pairs if None not in (of_a.value, of_b.value)]
    if unlike := [pair for pair in units if pair[0] != pair[1]]:
        yield Difference("unit", *(", ".join(side) for side in zip(*unlike, strict=True)))
    of_a, of_b = _identical(a), _identical(b)
    for key in of_a:
        implied = key == "boundary" and of_a["method"] != of_b["method"]
        implied |= key == "tokens" and _is_same_stream(a, b)
        if of_a[key] != of_b[key] and not implied:
            yield Difference(key, of_a[key], of_b[key])
    # Where only one of them counts a GPU, the boundary or the method differs already.
    if not _gpus(a) or not _gpus(b):
        return
    drivers = [", ".join(sorted({gpu.driver or UNKNOWN for gpu in _gpus(one)})) for one in (a, b)]
    if drivers[0] != drivers[1]:
        yield Difference("driver", *drivers)
    limits = _limits_w(a), _limits_w(b)
    if not _near(*limits, within=lambda _: LIMIT_CHANGE_W):
        yield Difference("power_limit", *(_listed(found, "W") for found in limits))
    clocks = _clocks_mhz(a), _clocks_mhz(b)
    if not _near(*clocks, within=lambda mhz: CLOCK_CHANGE * mhz):
        yield Difference("clocks", *(_listed(found, "MHz") for found in clocks))


def compared_estimates(result: ExperimentResult) -> dict[FigureName, Estimate]:
    """The figures with an interval that `compare` takes the ratios of."""
    speed = result.performance
    return {
        "energy_per_output_token": result.energy.per_output_token,
        "output_tokens_per_second": speed.output_tokens_per_second,
        "ttft_s": speed.ttft_s.p50,
        "tpot_s": speed.tpot_s.p50,
    }


def _identical(result: ExperimentResult) -> dict[Key, str]:
    """What must be the same to the letter."""
    tokens, energy = result.tokens, result.energy
    config = result.config
    asked = f"{config.n} of {config.prompts_from}, seed {config.random_seed} (token ids unknown)"
    measured = {"counter": "measured", "sampled": "measured", None: "not known"}
    return {
        "simulated": "simulated" if result.simulated else "a real run",
        "method": measured.get(energy.method, str(energy.method)),
        "boundary": energy.boundary or UNKNOWN,
        "model": config.model,
        "workload": asked if result.workload_hash is None else result.workload_hash[:12],
        # With enough digits that equal strings are equal ratios, however many passes there were.
        "tokens": f"{tokens.input / tokens.requests:.12g} in, {tokens.output / tokens.requests:.12g} out",
    }


def _is_same_stream(a: ExperimentResult, b: ExperimentResult) -> bool:
    """Whether the requests are alike although windows are cut from at least one load.

    A window holds the tokens that came in it and the requests that ended in it: their ratio is not that of
    the requests. Of the same prompts with pinned lengths it is known without.
    """
    loads = [one.config.load for one in (a, b)]
    return (
        any(load is not None and not load.finite for load in loads)
        and a.workload_hash is not None
        and a.workload_hash == b.workload_hash
        and a.config.max_output_tokens == b.config.max_output_tokens
        and all(one.config.output_length == "exact" and one.tokens.pinned_ok for one in (a, b))
    )


def _gpus(result: ExperimentResult) -> list[GpuFacts]:
    """Those whose energy counts, in the order of the machine."""
    counted = {reading.domain.partition(":")[2] for reading in result.energy.readings}
    return sorted((gpu for gpu in result.environment.gpus if gpu.uuid in counted), key=lambda gpu: gpu.index)


def _limits_w(result: ExperimentResult) -> list[float | None]:
    """In the passes where that was read, else before the run."""
    seen = {state.domain.partition(":")[2]: state.power_limit_w for state in result.devices}
    return [gpu.power_limit_w if seen.get(gpu.uuid) is None else seen[gpu.uuid] for gpu in _gpus(result)]


def _clocks_mhz(result: ExperimentResult) -> list[float | None]:
    return [None if state.sm_clock_hz is None else state.sm_clock_hz / 1e6 for state in result.devices]


def _near(a: Sequence[float | None], b: Sequence[float | None], *, within: Callable[[float], float]) -> bool:
    """Whether each pair is as close as `within` says of the larger; unknown is near to unknown alone."""
    return len(a) == len(b) and all(
        one is other if one is None or other is None else abs(one - other) <= within(max(one, other))
        for one, other in zip(a, b, strict=True)
    )


def _listed(values: Sequence[float | None], unit: str) -> str:
    return ", ".join(UNKNOWN if value is None else f"{value:.0f} {unit}" for value in values) or "none"
