"""Do the models that people reported come out right? Those of the field cases, where they are there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.measure.preflight import reasons_against
from llenergymeasure.models.architecture import from_config
from llenergymeasure.models.formulas import active_parameters, kv_cache_bytes, parameters, weight_bytes
from llenergymeasure.models.resolve import resolve
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.records import Architecture

PLACE = "FIELD_CASES"


def folder() -> Path | None:
    """Where the cases are: named by FIELD_CASES, or in a folder that is shared beside this checkout."""
    if named := os.environ.get(PLACE):
        return Path(named)
    for parent in Path(__file__).resolve().parents:
        found = parent / "shared" / "data" / "field-cases"
        if found.is_dir():
            return found
    return None


CASES = folder()
pytestmark = pytest.mark.skipif(CASES is None, reason=f"no field cases: set {PLACE} to their folder")

PARAMETERS = {
    "01-shapes-known/gemma-2-9b": 9_241_705_984,
    "01-shapes-known/gemma-7b": 8_537_680_896,
    "01-shapes-known/llama-3.2-1b": 1_235_814_400,
    "01-shapes-known/mistral-nemo-12b": 12_247_782_400,
    "01-shapes-known/opt-350m": 331_196_416,
    "01-shapes-known/opt-6.7b": 6_658_473_984,
    "01-shapes-known/phi-3-mini-4k": 3_821_079_552,
    "01-shapes-known/phi-4": 14_659_507_200,
    "01-shapes-known/pythia-6.9b": 6_857_302_016,
    "01-shapes-known/qwen3-4b": 4_022_468_096,
    "02-shapes-modern/deepseek-v3": 671_026_404_352,
    "02-shapes-modern/falcon-7b": 6_921_720_704,
    "02-shapes-modern/gemma-3-1b": 999_885_952,
    "02-shapes-modern/gemma-3-4b": 4_300_079_472,
    "02-shapes-modern/gpt-oss-20b": 20_914_757_184,
    "02-shapes-modern/mamba-2.8b": 2_768_345_600,
    "02-shapes-modern/qwen3-30b-a3b": 30_532_122_624,
    "02-shapes-modern/qwen3-next-80b-a3b": 79_674_391_296,
    "02-shapes-modern/tiny-qwen3-moe": 1_022_336,
}


def place(case: str) -> Path:
    assert CASES is not None
    return CASES / case


def shape(case: str) -> Architecture:
    path = place(case) / "config.json"
    return from_config(json.loads(path.read_text(encoding="utf-8")), name=case, source=str(path))


@pytest.mark.parametrize(("case", "count"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameters(case: str, count: int) -> None:
    assert parameters(shape(case)) == count


def test_active_parameters_and_caches() -> None:
    modern = "02-shapes-modern/"
    assert active_parameters(shape(modern + "deepseek-v3")) == 671_026_404_352 - 58 * 248 * 3 * 7168 * 2048
    assert active_parameters(shape(modern + "qwen3-30b-a3b")) == pytest.approx(3.35e9, rel=0.005)
    per_token = {
        name: kv_cache_bytes(shape(modern + name), batch=1, tokens=1, bytes_per_element=2)
        for name in ("deepseek-v3", "falcon-7b", "mamba-2.8b")
    }
    assert per_token == {"deepseek-v3": 70_272, "falcon-7b": 8_192, "mamba-2.8b": 0}
    hybrid = shape(modern + "qwen3-next-80b-a3b")
    assert sum(layer.count for layer in hybrid.layers if layer.attention) == 12


def test_weights_that_come_quantised() -> None:
    assert weight_bytes(shape("03-quantised-checkpoint/small-awq"), "bf16") == 80_439_296
    size = weight_bytes(shape("03-quantised-checkpoint/llama-3.1-8b-awq-int4"), "bf16")
    assert size == pytest.approx(5.7e9, rel=0.01)


def test_a_model_far_larger_than_this_host_and_prompts_beyond_the_context_are_refused() -> None:
    large = ExperimentConfig(model=f"random:{place('02-shapes-modern/deepseek-v3')}")
    total = estimate_vram(large).total_bytes
    assert total is not None
    assert total > 600e9
    assert any(reason.startswith("memory: ") for reason in reasons_against(large))
    long = ExperimentConfig(model=f"random:{place('02-shapes-modern/tiny-qwen3-moe')}", max_input_tokens=3000)
    assert any("the 2048 tokens of" in reason for reason in reasons_against(long))


@pytest.mark.parametrize(
    ("case", "vocabulary"), [("07-tokenizer-past-embedding/model", 260), ("08-no-pad-no-eos/model", 256)]
)
def test_the_vocabulary_is_the_embeddings(case: str, vocabulary: int) -> None:
    assert shape(case).vocab == vocabulary


def test_a_split_gguf_and_one_whose_layers_differ() -> None:
    case = place("13-gguf-odd")
    whole, first, second, differing = (
        case / f"{name}.gguf"
        for name in ("plain-tied", "split-00001-of-00002", "split-00002-of-00002", "per-layer-kv")
    )
    if not first.is_file():
        pytest.skip("the GGUF files are not made yet: python make.py in that folder")
    read = resolve(str(first))
    assert read.architecture is not None
    assert parameters(read.architecture) == 80_192
    assert read.architecture.layers == getattr(resolve(str(whole)).architecture, "layers", None)
    with pytest.raises(PreFlightError, match="is part 2 of 2"):
        resolve(str(second))
    odd = resolve(str(differing)).architecture
    assert odd is not None
    assert kv_cache_bytes(odd, batch=1, tokens=1, bytes_per_element=2) == 2 * 16 * (1 + 2) * 2
