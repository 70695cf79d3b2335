from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
from test_metrics import GPU, blocks_of, gpu_trace, measurement, one_pass

from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.utilisation import flops, mbu, mfu, peak_of
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.shapes import SHAPES
from llenergymeasure.records import Generation, GpuFacts, Measurement

SHAPE = SHAPES["llama-3.2-1b"]
H100 = "NVIDIA H100 80GB HBM3"


def on(name: str | None, **changes: Any) -> Measurement:
    """Three passes of 6 s with two requests of 100 prompt and 50 output tokens, on that GPU."""
    base = measurement(gpu_trace(100.0, GPU), architecture=SHAPE)
    return replace(
        base,
        environment=replace(base.environment, gpus=(GpuFacts("GPU-a", 0, name=name),)),
        facts=replace(base.facts, weights_bytes=2_471_628_800),
        **changes,
    )


@pytest.mark.parametrize(
    ("device", "tera", "tb"),
    [
        (H100, 989.4, 3.35),
        ("NVIDIA H100 PCIe", 756.0, 2.0),
        ("NVIDIA H200", 989.4, 4.8),
        ("NVIDIA A100-SXM4-80GB", 312.0, 2.039),
        ("NVIDIA A100-PCIE-40GB", 312.0, 1.555),
        ("NVIDIA L4", 121.0, 0.3),
        ("NVIDIA GeForce RTX 4090", 165.2, 1.008),
    ],
)
def test_a_known_gpu_has_its_published_peak(device: str, tera: float, tb: float) -> None:
    peak = peak_of(device)
    assert peak is not None
    assert peak.flops["bf16"] == pytest.approx(tera * 1e12)
    assert peak.bytes_per_second == pytest.approx(tb * 1e12)
    assert "NVIDIA" in peak.source


@pytest.mark.parametrize("device", [None, "", "NVIDIA L40", "Some GPU", "Simulated GPU"])
def test_an_unknown_gpu_has_none(device: str | None) -> None:
    assert peak_of(device) is None


def test_mfu_is_operations_over_peak_operations() -> None:
    run = on(H100)
    total = flops([run]).total
    assert total is not None
    assert mfu([run]).value == pytest.approx(total / (18 * 989.4e12))


def test_mbu_worked_by_hand() -> None:
    # A batch decodes 49 steps in 5.9 s: 49 times the weights, and each of two caches from 100 to 149 tokens.
    per_token = 2 * 16 * 8 * 64 * 2
    moved = 49 * 2_471_628_800 + 2 * (49 * 100 + 50 * 49 // 2) * per_token
    assert mbu([on(H100)]).value == pytest.approx(moved / (5.9 * 3.35e12))


def test_of_several_runs_both_are_over_all_of_them_and_their_interval_is_over_runs() -> None:
    def slower(seconds: float) -> Measurement:
        return on(H100, blocks=blocks_of([one_pass(20 + 10 * at, seconds) for at in range(2)]))

    runs = [slower(6.0), slower(7.0), slower(8.0)]
    total = flops(runs).total
    assert total is not None
    assert total == pytest.approx(2 * (flops([on(H100)]).total or 0))
    found = mfu(runs)
    assert found.value == pytest.approx(total / (42 * 989.4e12))
    each = [mfu([run]).value or 0 for run in runs]
    half = 4.302653 * stdev(each) / fmean(each) / 3**0.5
    assert found.high == pytest.approx((found.value or 0) * (1 + half), rel=1e-6)
    assert mbu(runs).low is not None
    assert mbu(runs[:2]).low is None


def test_an_empty_output_moves_nothing_and_takes_nothing_off() -> None:
    def tell(output: int) -> Measurement:
        passes = [one_pass(20 + 10 * at, 6, output=output) for at in range(3)]
        mixed = [replace(one, generation=emptied(one.generation, index=1)) for one in passes]
        return on(H100, blocks=blocks_of(mixed))

    per_token = 2 * 16 * 8 * 64 * 2
    moved = 49 * 2_471_628_800 + (49 * 100 + 50 * 49 // 2) * per_token
    assert mbu([tell(50)]).value == pytest.approx(moved / (5.9 * 3.35e12))
    nothing = mbu([tell(0)])
    assert (nothing.value, nothing.reason) == (None, "no token was generated in decode")


def emptied(generation: Generation, *, index: int) -> Generation:
    return Generation(
        tuple(replace(one, output_tokens=0) if one.index == index else one for one in generation.completions)
    )


def test_without_a_peak_both_are_missing_and_name_the_device() -> None:
    for found in (mfu([on("Some GPU")]), mbu([on("Some GPU")])):
        assert found.value is None
        assert found.reason == "no published peak of Some GPU is known"


def test_without_a_shape_there_is_no_arithmetic() -> None:
    run = on(H100, architecture=None)
    assert flops([run]).total is None
    assert mfu([run]).value is None
    assert mbu([run]).value is None


def test_a_mixture_has_no_bandwidth_figure() -> None:
    found = mbu([on(H100, architecture=SHAPES["mixtral-8x7b"])])
    assert found.value is None
    assert found.reason == "which experts a batch reads is not known"


def asked(**section: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "n": 4, **section})


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({"pytorch": {"num_beams": 4}}, "beam search"),
        ({"pytorch": {"prompt_lookup_num_tokens": 4}}, "speculative tokens"),
        ({"pytorch": {"assistant_model": "small"}}, "speculative tokens"),
        ({"backend": "vllm", "vllm": {"beam_search": {"beam_width": 2}}}, "beam search"),
        ({"backend": "vllm", "vllm": {"engine": {"speculative_config": {}}}}, "speculative tokens"),
    ],
)
def test_work_that_tokens_do_not_show_leaves_no_figure_of_work(section: dict[str, Any], part: str) -> None:
    run = on(H100, config=asked(**section))
    found = flops([run])
    assert (found.prefill, found.decode, found.total, found.method) == (None, None, None, None)
    for reason in (found.reason, mfu([run]).reason, mbu([run]).reason):
        assert reason is not None
        assert part in reason


def test_without_first_tokens_there_is_no_time_per_token_for_that_reason() -> None:
    run = on(H100)
    untold = [
        replace(
            one,
            generation=Generation(
                tuple(replace(done, t_first_ns=None) for done in one.generation.completions)
            ),
        )
        for one in run.passes
    ]
    told = metrics([replace(run, blocks=blocks_of(untold))]).performance
    assert told.ttft_s.mean.reason == told.tpot_s.mean.reason == "no first-token times"
    assert told.e2e_s.mean.value is not None


def test_batches_side_by_side_have_the_bandwidth_of_one_device_each() -> None:
    alone = on(H100)
    two = on(H100, config=asked(pytorch={"num_processes": 2}))
    both = replace(
        two,
        environment=replace(
            two.environment, gpus=(GpuFacts("GPU-a", 0, name=H100), GpuFacts("GPU-b", 1, name=H100))
        ),
        facts=replace(two.facts, weights_bytes=2 * 2_471_628_800, gpu_uuids=("GPU-a", "GPU-b")),
    )
    assert mbu([both]).value == pytest.approx(mbu([alone]).value)


def test_an_adapter_beside_the_weights_is_named_as_not_counted() -> None:
    beside = flops([on(H100, config=asked(lora={"path": "x"}))])
    merged = flops([on(H100, config=asked(lora={"path": "x", "merged": True}))])
    assert beside.method is not None
    assert beside.method.endswith("nor the adapter's products")
    assert merged.method == flops([on(H100)]).method


def test_continuous_batching_has_no_mbu_for_nobody_tells_its_steps() -> None:
    def staggered(generation: Generation) -> Generation:
        first, second = generation.completions
        assert second.t_first_ns is not None
        late = replace(second, t_first_ns=second.t_first_ns + 500_000_000)
        return replace(generation, completions=(first, late))

    run = on(H100)
    mixed = replace(
        run, blocks=blocks_of([replace(one, generation=staggered(one.generation)) for one in run.passes])
    )
    assert mbu([mixed]).reason == "continuous batching: how many steps read the weights is not reported"
    assert mfu([mixed]).value == mfu([run]).value


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"engine": {"enable_prefix_caching": True}}, "a prefix that prompts share is computed once"),
        ({"engine": {"spec_method": "ngram"}}, "speculative tokens are discarded"),
        ({"beam_search": {"beam_width": 2}}, "beam search discards beams"),
    ],
)
def test_an_engine_of_its_own_mind_has_no_figure_of_work(section: dict[str, Any], reason: str) -> None:
    run = on(H100)
    config = ExperimentConfig.model_validate({"model": "any", "backend": "vllm", "n": 2, "vllm": section})
    done = flops([replace(run, config=config)])
    assert done.total is None
    assert done.reason is not None
    assert done.reason.startswith(reason)
