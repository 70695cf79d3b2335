"""What users write: checked by mypy and pyright as the README's example is, without plug-ins; never run."""

from __future__ import annotations

from pathlib import Path

from llenergymeasure import (
    BaselineConfig,
    BudgetConfig,
    DatasetConfig,
    DecoderConfig,
    EnergyConfig,
    Estimate,
    ExperimentConfig,
    ExperimentError,
    ExperimentResult,
    FootprintConfig,
    LlamacppConfig,
    LoraConfig,
    PassesConfig,
    PytorchConfig,
    RepeatsConfig,
    RunnerConfig,
    SimulatedConfig,
    VllmConfig,
    WarmupConfig,
    __version__,
    load_experiment_config,
    run_experiment,
)


def measure() -> list[ExperimentResult]:
    results: list[ExperimentResult] = []
    on_pytorch = ExperimentConfig(
        model="smollm2-135m",
        n=8,
        dataset=DatasetConfig(name="synthetic", prompt_tokens=64),
        decoder=DecoderConfig(temperature=0.7),
        warmup=WarmupConfig(min_batches=2),
        passes=PassesConfig(seconds=2, budget=BudgetConfig(seconds=60)),
        repeats=RepeatsConfig(count=5, target=0.02),
        baseline=BaselineConfig(net="bare"),
        energy=EnergyConfig(gpus="all"),
        footprint=FootprintConfig(zone="FRA"),
        runner=RunnerConfig(kind="container", image="engine:1"),
        lora=LoraConfig(path="adapter"),
        pytorch=PytorchConfig(batch_size=8, device="cpu"),
        output_dir=Path("results"),
    )
    for config in (
        on_pytorch,
        ExperimentConfig(model="m", backend="vllm", vllm=VllmConfig(engine={"max_model_len": 512})),
        ExperimentConfig(model="m.gguf", backend="llamacpp", llamacpp=LlamacppConfig(threads=4)),
        ExperimentConfig(model="any", backend="simulated", simulated=SimulatedConfig(idle_w=50)),
        load_experiment_config("experiment.yaml", {"n": 4}),
        {"model": "smollm2-135m", "n": 8},
        "experiment.yaml",
        Path("experiment.yaml"),
    ):
        try:
            results.append(run_experiment(config, strict=True))
        except ExperimentError as error:
            print(__version__.upper(), error.hint, error.failure)
    return results


def half_width(result: ExperimentResult) -> float | None:
    estimate: Estimate = result.energy.per_output_token
    return estimate.half_width
