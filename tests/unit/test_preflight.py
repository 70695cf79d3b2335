from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llenergymeasure.backends import Refusal, why_too_many_threads
from llenergymeasure.backends.pytorch.refusals import why_refused
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.exceptions import ConfigError, EnergyError, PreFlightError
from llenergymeasure.host.machine import threads
from llenergymeasure.measure.preflight import preflight, reasons_against, why_too_large
from llenergymeasure.records import GpuFacts

GB = 10**9


def nothing() -> Selection:
    return Selection(meters=(), method="modelled", refused=())


def no_meter() -> Selection:
    raise EnergyError("the meter 'nvml' can't be used: no driver", hint="--meter auto uses what is available")


def simulated(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "backend": "simulated", "n": 4, **changes})


def test_what_can_run_is_cleared_with_its_meters() -> None:
    cleared = preflight(simulated(), nothing, gpus=())
    assert cleared.meters == nothing()
    assert cleared.model is None


def test_all_reasons_come_at_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    config = ExperimentConfig(model=str(tmp_path / "absent.gguf"), n=4, output_dir=blocked)
    with pytest.raises(PreFlightError) as caught:
        preflight(config, no_meter, gpus=())
    message = str(caught.value)
    assert message.startswith("3 reasons against this run:")
    for part in ("output: ", "model '", "energy: the meter 'nvml' can't be used: no driver"):
        assert part in message


def test_one_reason_stands_alone_with_its_way_out() -> None:
    with pytest.raises(PreFlightError, match=r"^energy: the meter 'nvml'"):
        preflight(simulated(), no_meter, gpus=())
    with pytest.raises(PreFlightError, match=r"no such file or directory$") as caught:
        preflight(ExperimentConfig(model="/no/such/model", n=4), nothing, gpus=())
    assert caught.value.hint


def test_a_zone_that_no_table_knows_is_refused_before_anything_is_measured() -> None:
    config = simulated(footprint={"zone": "XXX"})
    with pytest.raises(
        PreFlightError, match=r"^footprint\.zone: (zone XXX needs codecarbon|codecarbon \S+ has no)"
    ):
        preflight(config, nothing, gpus=())


def test_more_prompts_than_the_dataset_has_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="200 prompts, and n is 201"):
        preflight(simulated(n=201), nothing, gpus=())


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PreFlightError, match="no weights"):
        preflight(ExperimentConfig(model=str(tmp_path), n=4), nothing, gpus=())


def test_a_model_larger_than_the_host_is_refused_before_it_is_loaded() -> None:
    config = ExperimentConfig(model="random:llama-3.1-70b")
    why = why_too_large(config, (), available_bytes=24 * GB)
    assert why is not None
    assert "this host has left 24.0 GB" in str(why)
    assert why_too_large(config, (), available_bytes=200 * GB) is None


def test_on_unified_memory_what_the_host_has_left_counts() -> None:
    config = ExperimentConfig(model="random:llama-3.1-70b")
    gpus = (GpuFacts(uuid="GPU-1", index=0, unified_memory=True),)
    assert "this host has left 24.0 GB" in str(why_too_large(config, gpus, available_bytes=24 * GB))
    assert why_too_large(config, gpus, available_bytes=200 * GB) is None


def test_memory_that_is_unknown_refuses_nothing() -> None:
    config = ExperimentConfig(model="random:llama-3.1-70b")
    assert why_too_large(config, (), available_bytes=None) is None


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("RLIMIT_NOFILE", 12, "ulimit -n 1024"),
        ("RLIMIT_NOFILE", 256, None),
        ("RLIMIT_AS", 800_000_000, "ulimit -v unlimited"),
        ("RLIMIT_AS", 8 * GB, None),
    ],
)
def test_a_shell_whose_limits_no_run_survives_is_refused_by_their_names(
    limit: str, value: int, said: str | None
) -> None:
    script = (
        "import resource, sys\n"
        "from llenergymeasure.config.models import ExperimentConfig\n"
        "from llenergymeasure.measure.preflight import reasons_against\n"
        "config = ExperimentConfig.model_validate({'model': 'any', 'backend': 'simulated', 'n': 2})\n"
        "assert not reasons_against(config)\n"
        f"resource.setrlimit(resource.{limit}, ({value}, {value}))\n"
        "print(*reasons_against(config))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert (said in done.stdout) if said else done.stdout == "\n"


@pytest.mark.parametrize("option", ["pytorch.threads", "llamacpp.threads", "llamacpp.threads_batch"])
def test_more_threads_than_a_system_gives_are_refused_and_some_for_each_processor_are_not(
    option: str,
) -> None:
    why = why_too_many_threads(option, 100_000)
    assert why is not None
    assert option in why.reason
    assert str(16 * threads()) in (why.way_out or "")
    assert why_too_many_threads(option, 16 * threads()) is None
    assert why_too_many_threads(option, None) is None


def test_the_threads_of_pytorch_are_looked_at_before_it_is_loaded() -> None:
    asked = ExperimentConfig.model_validate({"model": "random:gpt2", "pytorch": {"threads": 100_000}})
    assert "pytorch.threads is 100000" in str(why_refused(asked))


def test_an_engine_with_its_own_batches_needs_room_for_one_request_on_the_gpus_that_share_the_model() -> None:
    gpus = tuple(GpuFacts(uuid=f"GPU-{index}", index=index, memory_bytes=80 * GB) for index in range(4))

    def why(model: str, **engine: object) -> Refusal | None:
        config = ExperimentConfig.model_validate(
            {"model": model, "backend": "vllm", "n": 1000, "vllm": {"engine": engine}}
        )
        return why_too_large(config, gpus, available_bytes=10**12)

    assert why("random:llama-3.1-8b") is None
    assert "the GPU has 80.0 GB" in str(why("random:llama-3.1-70b"))
    assert why("random:llama-3.1-70b", tensor_parallel_size=2) is None
    assert why("random:llama-3.1-70b", quantization="fp8") is None


def test_on_gpus_the_largest_one_counts_unless_layers_are_spread() -> None:
    gpus = tuple(GpuFacts(uuid=f"GPU-{index}", index=index, memory_bytes=80 * GB) for index in range(2))
    alone = ExperimentConfig(model="random:llama-3.1-70b")
    spread = ExperimentConfig.model_validate(
        {"model": "random:llama-3.1-70b", "pytorch": {"device_map": "auto"}}
    )
    assert "the GPU has 80.0 GB" in str(why_too_large(alone, gpus, available_bytes=10**12))
    assert why_too_large(spread, gpus, available_bytes=10**12) is None


def test_memory_is_judged_by_the_engine_that_runs_and_by_no_other() -> None:
    gpus = tuple(GpuFacts(uuid=f"GPU-{index}", index=index, memory_bytes=80 * GB) for index in range(2))

    def why(backend: str, **section: object) -> str:
        config = ExperimentConfig.model_validate(
            {"model": "random:llama-3.1-70b", "backend": backend, backend: section}
        )
        return str(why_too_large(config, gpus, available_bytes=24 * GB))

    assert "the GPU has 80.0 GB" in why("vllm")
    assert "this host has left 24.0 GB" in why("pytorch", device="cpu")
    assert "this host has left 24.0 GB" in why("llamacpp")
    assert why("llamacpp", gpu_layers=-1) == "None"
    assert why("pytorch", num_processes=2, tp_plan="auto") == "None"


def test_a_model_of_unknown_size_is_not_refused_for_it() -> None:
    assert why_too_large(simulated(), (), available_bytes=1) is None


def test_a_model_without_a_tokenizer_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    config = ExperimentConfig(model=str(tmp_path), n=4)
    with pytest.raises(PreFlightError, match="holds no tokenizer") as caught:
        preflight(config, nothing, gpus=())
    assert "tokenizer.json" in str(caught.value.hint)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert preflight(config, nothing, gpus=()).model is not None


def test_more_tokens_than_the_context_holds_are_refused() -> None:
    long = ExperimentConfig(model="random:gpt2", n=4, max_input_tokens=1000, max_output_tokens=25)
    with pytest.raises(PreFlightError, match="than the 1024 tokens of random:gpt2's context"):
        preflight(long, nothing, gpus=())
    fits = ExperimentConfig(model="random:gpt2", n=4, max_input_tokens=1000, max_output_tokens=24)
    assert preflight(fits, nothing, gpus=()).model is not None


def test_an_assistant_that_can_not_be_fetched_is_refused_by_its_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = ExperimentConfig.model_validate(
        {
            "model": "random:llama-3.2-1b",
            "n": 1,
            "pytorch": {"assistant_model": "nobody/none", "batch_size": 1},
        }
    )
    with pytest.raises(
        PreFlightError, match=r"pytorch\.assistant_model: offline: 'nobody/none' is not in the"
    ):
        preflight(config, nothing, gpus=())


@pytest.mark.parametrize("runner", [{}, {"kind": "container", "image": "engines:1"}])
@pytest.mark.parametrize("backend", ["pytorch", "vllm"])
def test_an_adapter_that_is_not_there_is_refused_before_anything_is_loaded(
    backend: str, runner: dict[str, object], tmp_path: Path
) -> None:
    if backend == "pytorch" and not runner and find_spec("peft") is None:
        pytest.skip("without peft its absence comes first")
    config = ExperimentConfig.model_validate(
        {
            "model": "random:llama-3.2-1b",
            "n": 1,
            "backend": backend,
            "runner": runner,
            "lora": {"path": str(tmp_path)},
        }
    )

    def told() -> int:
        with pytest.raises(PreFlightError) as caught:
            preflight(config, no_meter, gpus=())
        return str(caught.value).count(f"lora.path {tmp_path} is not a directory with adapter_config.json")

    assert told() == 1
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.safetensors").touch()
    assert told() == 0


@pytest.mark.parametrize(
    ("backend", "options", "named"),
    [
        ("pytorch", {"revision": "nope"}, "pytorch.revision 'nope'"),
        ("vllm", {"engine": {"revision": "nope"}}, "vllm.engine.revision 'nope'"),
    ],
)
def test_a_revision_of_what_is_not_on_the_hub_is_refused(
    backend: str, options: dict[str, object], named: str
) -> None:
    config = ExperimentConfig.model_validate(
        {"model": "random:llama-3.2-1b", "n": 1, "backend": backend, backend: options}
    )
    with pytest.raises(PreFlightError) as caught:
        preflight(config, nothing, gpus=())
    assert f"{named} names a revision on the hub, and random:llama-3.2-1b is a shape with" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"model": "random:gpt2", "max_output_tokens": 100_000},
            "than the 1024 tokens of random:gpt2's context",
        ),
        ({"model": "nobody/none"}, "offline: 'nobody/none' is not in the hub cache"),
        ({"model": "random:llama-3.1-70b", "precision": "fp32"}, "memory: random:llama-3.1-70b needs about"),
    ],
)
def test_reasons_are_foretold_as_preflight_gives_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], part: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = ExperimentConfig.model_validate({"n": 4, **changes})
    foretold = [reason for reason in reasons_against(config) if part in reason]
    with pytest.raises(PreFlightError) as caught:
        preflight(config, nothing, gpus=())
    assert len(foretold) == 1
    # How much memory is left differs from one moment to the next.
    assert foretold[0].startswith(str(caught.value).partition(" GB and ")[0])


def test_heads_that_the_gpus_can_not_share_evenly_are_refused_before_loading() -> None:
    asked = {
        "model": "random:llama-3.2-1b",
        "backend": "vllm",
        "vllm": {"engine": {"tensor_parallel_size": 3}},
    }
    said = "vllm.engine.tensor_parallel_size is 3, and random:llama-3.2-1b has 32 heads"
    assert any(why.startswith(said) for why in reasons_against(ExperimentConfig.model_validate(asked)))
