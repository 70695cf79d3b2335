"""How does a result of an older schema become one of this schema?"""

from __future__ import annotations

import math
from typing import Any

# The content of a file of schema 1; its shape is checked by the models once it has become schema 2.
Data = dict[str, Any]


def result_1_to_2(data: Data) -> Data:
    """A result of version 0.8: its cycles become runs, of which no figures of their own were kept."""
    new = {key: value for key, value in data.items() if key != "window"}
    config, energy, window = config_1_to_2(data["config"]), dict(data["energy"]), data["window"]
    energy.pop("regression", None)
    speed = {key: value for key, value in data["performance"].items() if key != "itl_s"}
    new |= {"schema_version": "2", "config": config, "performance": speed}
    cycles: dict[int, list[Data]] = {}
    for one in window["passes"]:
        cycles.setdefault(one.get("cycle") or 0, []).append(
            {"start_ns": one["start_ns"], "end_ns": one["end_ns"]}
        )
    new["runs"] = [_run(number, passes) for number, passes in enumerate(cycles.values(), start=1)]
    several = len(cycles) > 1
    energy["replicates"] = {
        "unit": "run" if several else "pass",
        "count": len(cycles) if several else len(window["passes"]),
    }
    new["energy"] = energy
    return new


def config_1_to_2(data: Data) -> Data:
    """`cycles` and the first stage of passes are `repeats.count` and `passes.count`; a target over passes is
    one over repeats where there were several.
    """
    new = {key: value for key, value in data.items() if key != "cycles"}
    cycles = data.get("cycles", 1)
    passes = dict(data.get("passes", {}))
    target = passes.pop("target", 0.02)
    passes["count"] = passes.pop("minimum", 5)
    new["passes"] = passes | {"prefill": 0, "target": target if cycles == 1 else None}
    new["repeats"] = {"count": cycles, "target": target if cycles >= 3 else None, "max": max(30, cycles)}
    return new


def _run(number: int, passes: list[Data]) -> Data:
    seconds = math.fsum((one["end_ns"] - one["start_ns"]) / 1e9 for one in passes)
    window = {
        "start_ns": passes[0]["start_ns"],
        "end_ns": passes[-1]["end_ns"],
        "duration_s": seconds,
        "passes": passes,
    }
    return {"index": number, "outcome": "measured", "window": window}
