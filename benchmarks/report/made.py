"""Many plausible results from one: batch sizes, precisions and seeds, with scatter between runs."""

from __future__ import annotations

import json
import random
from itertools import islice, product
from pathlib import Path
from typing import Any

from benchmarks.virtual_run import VirtualRuns
from llenergymeasure.analysis.metrics import experiment_result
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.repeats import repeat
from llenergymeasure.results.folder import RUNS

BATCHES, PRECISIONS = (1, 2, 4, 8, 16, 32), ("bf16", "fp16")


def one_result(folder: Path) -> Path:
    """The folder of a result of three runs in virtual time, with prefill passes and traces."""
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 32,
            "dataset": {"name": "synthetic", "prompt_tokens": 64},
            "max_output_tokens": 16,
            "passes": {"seconds": 5.0, "count": 3, "prefill": 2},
            "repeats": {"count": 3},
            "baseline": {"seconds": 3},
            "simulated": {"decode_s_per_step": 0.02, "prefill_s_per_token": 0.002, "run_scatter": 0.01},
            "output_dir": str(folder),
        }
    )
    with repeat(
        config, origins={}, tell=_silent, remark=_silent, strict=False, run=VirtualRuns()
    ) as finished:
        return experiment_result(finished.energies, failed=finished.failed).save(folder)


def many_results(made: Path, folder: Path, count: int) -> None:
    """So many results in `folder`, made of the one in `made`, whose runs they share."""
    text = (made / "result.json").read_text(encoding="utf-8")
    settings = product(range(count // (len(BATCHES) * len(PRECISIONS)) + 1), PRECISIONS, BATCHES)
    for at, (seed, precision, batch) in enumerate(islice(settings, count)):
        own = json.loads(text)
        own["experiment_id"] = f"{at:05}"
        own["config"]["random_seed"] = seed
        own["config"]["precision"] = precision
        own["config"]["simulated"]["batch_size"] = batch
        chance = random.Random(at)
        slow = 1.25 if precision == "fp16" else 1.0
        factors = {
            "J": (0.2 + 0.8 / batch) * slow * chance.gauss(1, 0.01),
            "t": batch**0.85 / slow * chance.gauss(1, 0.005),
            "s": batch**0.4 * slow * chance.gauss(1, 0.02),
        }
        _scale(own["energy"], factors)
        _scale(own["performance"], factors)
        for run in own["runs"]:
            run["figures"]["energy_per_output_token_j"] *= factors["J"] * chance.gauss(1, 0.01)
        target = folder / own["experiment_id"]
        target.mkdir(parents=True)
        (target / "result.json").write_text(json.dumps(own), encoding="utf-8")
        (target / RUNS).symlink_to((made / RUNS).resolve(), target_is_directory=True)


def _scale(part: Any, factors: dict[str, float]) -> None:
    """Every estimate of joules, rates and seconds, with its interval and range."""
    if isinstance(part, list):
        for one in part:
            _scale(one, factors)
    elif isinstance(part, dict) and {"value", "unit"} <= part.keys():
        factor = factors.get(part["unit"][0])
        for key in ("value", "low", "high"):
            if factor is not None and part[key] is not None:
                part[key] *= factor
        if factor is not None and part["systematic"] is not None:
            part["systematic"] = [end * factor for end in part["systematic"]]
    elif isinstance(part, dict):
        for key, one in part.items():
            if key in {"half_width", "low", "high"} and isinstance(one, float):
                part[key] = one * factors["J"]
            else:
                _scale(one, factors)


def _silent(*_: object, **__: object) -> None:
    pass
