"""Runs whose joules, terms and shares are written down, so that figures can be worked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scripted_run import S, measured

from llenergymeasure.analysis.run_energy import BlockJoules, RunEnergy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.records import (
    Block,
    BlockKind,
    Completion,
    Domain,
    Estimate,
    Generation,
    Pass,
    Quantity,
    Trace,
    Window,
)

GPU = Domain("gpu:GPU-a", "gpu", (Quantity("energy", "nvml.total_energy", "J", 1e-3),))
REQUESTS, PROMPT, OUTPUT = 2, 100, 50
PASS_S = 5.0


def walked(kind: BlockKind, walks: int, number: int, *, first_s: float = 0.1) -> Pass:
    """A pass of 5 s: each walk sends two requests of 100 prompt tokens, which write 50 tokens or one."""
    start_ns = round((100 + 10 * number) * S)
    end_ns = start_ns + round(PASS_S * S)
    output = OUTPUT if kind == "full" else 1
    first_ns = start_ns + round(first_s * S)
    done = [
        Completion(index, walk, 0, PROMPT, output, start_ns, start_ns, first_ns, end_ns, "length")
        for walk in range(walks)
        for index in range(REQUESTS)
    ]
    return Pass(Window(start_ns, end_ns), walks, Generation(tuple(done)))


def counted(joules: float | None, shares: Sequence[float] = (), **more: object) -> Spent:
    base = Spent("nvml.total_energy", "counter", joules, shares=tuple(shares))
    return replace(base, **more) if more else base  # type: ignore[arg-type]


def block(
    kind: BlockKind, walks: Sequence[int], spent: Spent | Mapping[str, Spent], *, first_s: float = 0.1
) -> BlockJoules:
    """A block of one pass for each of `walks`."""
    passes = tuple(walked(kind, count, number, first_s=first_s) for number, count in enumerate(walks))
    by_domain = {GPU.name: spent} if isinstance(spent, Spent) else dict(spent)
    return BlockJoules(Block(kind, None, passes, None), by_domain)


def run_of(
    *blocks: BlockJoules,
    domains: Sequence[Domain] = (GPU,),
    config: ExperimentConfig | None = None,
    index: int = 1,
) -> RunEnergy:
    asked = config or ExperimentConfig(model="any", backend="simulated", n=REQUESTS, max_output_tokens=OUTPUT)
    seen = replace(
        measured(Trace(tuple(domains), {}), config=asked, index=index),
        blocks=tuple(one.block for one in blocks),
    )
    idle = Estimate(50.0, "W", 50.0, 50.0)
    return RunEnergy(seen, tuple(domains), {}, tuple(blocks), idle, idle, idle, "no meter")
