from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import (
    LAYERS,
    VOCAB,
    Log,
    asked,
    configured,
    counts,
    opening,
    save_tiny_llama,
    tokens,
)

from llenergymeasure.backends.pytorch import PytorchBackend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.records import SessionFacts

pytestmark = pytest.mark.real

# On a CPU bitsandbytes packs 64 weights of 32 rows together.
HIDDEN = 64
# Per layer q and o of 64 × 64, k and v of 32 × 64, three of 64 × 128.
MATRICES = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128
ROWS = 2 * 64 + 2 * 32 + 2 * 128 + 64
# Embedding, head and norms stay in 16 bits, beside a few frequencies of the rotary positions.
KEPT = 2 * (2 * VOCAB * HIDDEN + LAYERS * 2 * HIDDEN + HIDDEN)
ROTARY = 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), hidden=HIDDEN)


def ran(model: Path | str, precision: str, way: str = "auto") -> SessionFacts:
    config = configured(model, precision=precision, quantization=way, batch_size=2)
    with PytorchBackend().open(config) as session:
        generation = session.generate(asked([3, 17, 8], output=12), Log())
        assert counts(generation) == [12, 12, 12]
        return session.facts()


@pytest.mark.parametrize(
    ("precision", "way", "method", "packed"),
    [
        # a byte per weight and a 4-byte scale per row
        ("int8", "bitsandbytes", "bitsandbytes", LAYERS * (MATRICES + 4 * ROWS)),
        # half a byte per weight, a scale per 64 (of 2 bytes where the CPU multiplies them by itself, else of
        # 4), and a table of 16 values for each of seven matrices
        ("int4", "bitsandbytes", "bitsandbytes", LAYERS * (MATRICES // 2 + MATRICES // 32 + 7 * 64)),
        # a byte per weight, a 2-byte scale per row, and a zero point per row
        ("int8", "torchao", "torchao", LAYERS * (MATRICES + 3 * ROWS)),
        ("int8", "quanto", "quanto", LAYERS * (MATRICES + 2 * ROWS)),
    ],
)
def test_weights_are_packed_and_their_bytes_counted(
    tiny: Path, precision: str, way: str, method: str, packed: int
) -> None:
    facts = ran(tiny, precision, way)
    found = facts.arguments["quantization"]
    assert isinstance(found, dict)
    assert found["quant_method"] == method
    assert facts.parameters == LAYERS * (MATRICES + 2 * HIDDEN) + 2 * VOCAB * HIDDEN + HIDDEN
    assert facts.weights_bytes is not None
    assert packed + KEPT <= facts.weights_bytes <= packed + KEPT + ROTARY + 8 * ROWS


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_nothing_is_said_of_is_quantised_by_bitsandbytes_and_in_its_best_type(
    tiny: Path, precision: str
) -> None:
    with opened(configured(tiny, precision=precision)) as session:
        found = session.facts().arguments["quantization"]
        assert isinstance(found, dict)
        assert (found["load_in_8bit"], found["load_in_4bit"]) == (precision == "int8", precision == "int4")
        assert session.facts().arguments["dtype"] == ("float16" if precision == "int8" else "bfloat16")
        if precision == "int4":
            assert found["bnb_4bit_quant_type"] == "nf4"
            assert found["bnb_4bit_compute_dtype"] == "bfloat16"


def test_rounded_weights_say_something_else(tiny: Path) -> None:
    requests = asked([3, 17, 8], output=16)
    said = {
        precision: tokens(configured(tiny, precision=precision), requests, batch=1)
        for precision in ("bf16", "int8", "int4")
    }
    assert said["int4"] != said["bf16"]
    assert said["int4"] != said["int8"]


def test_random_weights_of_a_shape_are_quantised_too(tiny: Path) -> None:
    plain = ran(f"random:{tiny}", "bf16")
    packed = ran(f"random:{tiny}", "int4")
    assert packed.parameters == plain.parameters
    assert packed.weights_bytes is not None
    assert plain.weights_bytes is not None
    assert packed.weights_bytes < plain.weights_bytes - LAYERS * MATRICES


def test_a_checkpoint_that_is_quantised_already_is_loaded_as_it_is(tiny: Path, tmp_path: Path) -> None:
    import transformers

    asked_for = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, quantization_config=asked_for)
    model.save_pretrained(tmp_path)
    facts = ran(tmp_path, "bf16")
    found = facts.arguments["quantization"]
    assert isinstance(found, dict)
    assert found["load_in_4bit"] is True
    assert facts.weights_bytes is not None
    assert facts.weights_bytes < KEPT + LAYERS * MATRICES
    error = opening(configured(tmp_path, precision="int8"))
    assert "quantised already (bitsandbytes)" in error.message
    assert error.hint is not None
    assert "bf16" in error.hint


@pytest.mark.parametrize(
    ("method", "package"), [("gptq", "optimum and gptqmodel"), ("awq", "gptqmodel"), ("hqq", "hqq")]
)
def test_a_checkpoint_whose_package_is_missing_is_refused_before_loading(
    tiny: Path, tmp_path: Path, method: str, package: str
) -> None:
    description = json.loads((tiny / "config.json").read_text())
    description["quantization_config"] = {"quant_method": method, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(description))
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    why = PytorchBackend().why_refused(configured(tmp_path))
    assert why is not None
    assert f"is quantised with {method}, which transformers loads with {package}" in str(why)
    assert "pip install" in str(why)


@pytest.mark.parametrize(
    ("precision", "options", "part"),
    [
        ("int4", {"quantization": "torchao"}, "GPUs only; --set pytorch.quantization=bitsandbytes"),
        ("bf16", {"quantization": "torchao"}, "precision is bf16; --precision int8"),
        ("int8", {"compile": True}, "does not compile weights of bitsandbytes"),
    ],
)
def test_what_can_not_be_quantised_here_is_refused_with_a_way_out(
    tiny: Path, precision: str, options: dict[str, Any], part: str
) -> None:
    why = PytorchBackend().why_refused(configured(tiny, precision=precision, **options))
    assert why is not None
    assert part in str(why)


def test_matrices_that_bitsandbytes_can_not_pack_on_a_cpu_are_refused(tmp_path: Path) -> None:
    narrow = save_tiny_llama(tmp_path, hidden=32)
    assert PytorchBackend().why_refused(configured(narrow, precision="int8")) is None
    why = PytorchBackend().why_refused(configured(narrow, precision="int4"))
    assert why is not None
    assert "multiples of 64" in str(why)
    assert "--precision int8" in str(why)
