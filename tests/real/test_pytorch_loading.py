from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import Log, asked, configured, copied, opening, save_tiny_llama, tokens

from llenergymeasure.backends.pytorch import PytorchBackend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError

pytestmark = pytest.mark.real

RANK = 3
# A pair of rank 3 for each q of 32 → 32 and each v of 32 → 16, in two layers.
ADAPTER = 2 * (RANK * (32 + 32) + RANK * (32 + 16))


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import peft
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("adapter")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    pair = peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, pair)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.normal_(0, 0.5)
    adapted.save_pretrained(folder)
    return folder


def with_adapter(model: Path, adapter: Path | str, *, merged: bool, **options: Any) -> ExperimentConfig:
    return configured(model, also={"lora": {"path": str(adapter), "merged": merged}}, **options)


def test_an_adapter_changes_what_is_said_merged_or_not(tiny: Path, adapter: Path) -> None:
    requests = asked([3, 17, 8], output=12)
    bare = tokens(configured(tiny), requests, batch=1)
    beside = tokens(with_adapter(tiny, adapter, merged=False), requests, batch=1)
    assert beside != bare
    assert beside == tokens(with_adapter(tiny, adapter, merged=True), requests, batch=1)


def test_an_adapter_that_is_merged_leaves_no_weights_of_its_own(tiny: Path, adapter: Path) -> None:
    with opened(configured(tiny, precision="bf16")) as session:
        bare = session.facts()
    with opened(with_adapter(tiny, adapter, merged=False, precision="bf16")) as session:
        beside = session.facts()
    with opened(with_adapter(tiny, adapter, merged=True, precision="bf16")) as session:
        merged = session.facts()
    found = {"path": str(adapter), "rank": RANK}
    assert beside.arguments["lora"] == {**found, "merged": False, "parameters": ADAPTER}
    assert merged.arguments["lora"] == {**found, "merged": True, "parameters": 0}
    assert bare.arguments["lora"] is None
    assert beside.weights_bytes == (bare.weights_bytes or 0) + 2 * ADAPTER
    assert merged.weights_bytes == bare.weights_bytes


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny: Path, adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    foreign = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    weights = load_file(foreign / "adapter_model.safetensors")
    renamed = {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()}
    save_file(renamed, foreign / "adapter_model.safetensors")
    error = opening(with_adapter(tiny, foreign, merged=False))
    assert "is not one for" in error.message
    assert "layers." in error.message


def test_an_adapter_that_is_not_there_or_would_be_rounded_away_is_refused(
    tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    refused = PytorchBackend().why_refused
    assert "not a directory with adapter_config.json" in str(
        refused(with_adapter(tiny, tmp_path, merged=False))
    )
    merged = with_adapter(tiny, adapter, merged=True, precision="int8")
    assert "round the adapter away; --set lora.merged=false" in str(refused(merged))
    described = json.loads((adapter / "adapter_config.json").read_text())
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    (other / "adapter_config.json").write_text(json.dumps({**described, "peft_type": "IA3"}))
    assert "of type IA3" in str(refused(with_adapter(tiny, other, merged=False)))


@pytest.mark.parametrize("field", [{"lora": {"path": "x"}}, {"passthrough_kwargs": {"a": 1}}])
def test_a_backend_that_takes_no_such_thing_refuses_it_where_the_file_is_read(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="but the backend simulated takes none"):
        ExperimentConfig.model_validate({"model": "any", "backend": "simulated", **field})


def passing(model: Path | str, **given: Any) -> ExperimentConfig:
    return configured(model, also={"passthrough_kwargs": given})


def test_further_arguments_reach_the_model_and_are_read_back(tiny: Path) -> None:
    requests = asked([3, 17, 8], output=12)
    config = passing(tiny, rms_norm_eps=5.0, use_safetensors=True)
    with opened(config) as session:
        assert session._open().model.config.rms_norm_eps == 5.0
        assert session.facts().arguments["passthrough_kwargs"] == {
            "rms_norm_eps": 5.0,
            "use_safetensors": True,
        }
        session.generate(requests, Log())
    assert tokens(config, requests, batch=1) != tokens(configured(tiny), requests, batch=1)


@pytest.mark.parametrize(
    ("name", "part", "hint"),
    [
        ("rms_norm_epz", "no argument rms_norm_epz", "rms_norm_eps"),
        ("low_cpu_mem_usage", "no argument low_cpu_mem_usage", "leave it out"),
        ("dtype", "set by llem itself", "use precision"),
        ("device_map", "set by llem itself", "use pytorch.device_map"),
    ],
)
def test_an_argument_that_would_be_ignored_or_is_ours_is_an_error(
    tiny: Path, name: str, part: str, hint: str
) -> None:
    error = opening(passing(tiny, **{name: "x"}))
    assert part in error.message
    assert error.hint is not None
    assert hint in error.hint


def test_random_weights_take_no_further_arguments(tiny: Path) -> None:
    assert "leave them out" in str(PytorchBackend().why_refused(passing(f"random:{tiny}", use_cache=True)))


def in_cache(home: Path, revisions: dict[str, Path]) -> None:
    """A hub cache with one model whose branches are these directories."""
    repository = home / "hub" / "models--some-org--tiny"
    (repository / "refs").mkdir(parents=True)
    for number, (branch, folder) in enumerate(revisions.items()):
        commit = f"{number:x}" * 40
        (repository / "refs" / branch).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)


def test_a_revision_is_the_one_that_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_tiny_llama(tmp_path / "other", seed=8)
    in_cache(tmp_path, {"main": tiny, "v1": other})
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    requests = asked([3, 17, 8], output=12)
    said = {
        name: tokens(configured("some-org/tiny", revision=name), requests, batch=1) for name in ("main", "v1")
    }
    assert said["main"] == tokens(configured(tiny), requests, batch=1)
    assert said["v1"] == tokens(configured(other), requests, batch=1)
    assert said["v1"] != said["main"]
    with opened(configured("some-org/tiny", revision="v1")) as session:
        assert session.facts().arguments["revision"] == "1" * 40


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
    own = True
"""


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copied(tiny, tmp_path)
    (folder / "own_code.py").write_text(CODE)
    described = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    (folder / "config.json").write_text(
        json.dumps({**described, "model_type": "own-llama", "architectures": ["OwnModel"], "auto_map": own})
    )
    with pytest.raises(BackendError) as caught, PytorchBackend().open(configured(folder)):
        pass
    assert caught.value.hint is not None
    assert "pytorch.trust_remote_code=true" in caught.value.hint
    with opened(configured(folder, trust_remote_code=True)) as session:
        assert session._open().model.own is True
        assert session.facts().arguments["trust_remote_code"] is True
        session.generate(asked([3], output=2), Log())
