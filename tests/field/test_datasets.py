"""Do the field cases about prompts, templates and token ids come out right, where they lie on this disk?

Set FIELD_CASES to their folder; else they are looked for beside the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "field-cases"
CASES = Path(os.environ.get("FIELD_CASES") or BESIDE)
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CASES / "README.md").is_file(), reason="no field cases: set FIELD_CASES to their folder"
    ),
]
QUICK = ("--preset", "smoke", "--set", "max_output_tokens=8", "--set", "passes.prefill=0")
READ = (
    "crlf_bom.jsonl",
    "empty_text.jsonl",
    "genai_perf.jsonl",
    "ids_dup.jsonl",
    "instruct.jsonl",
    "nan.jsonl",
    "openai_batch.jsonl",
    "openai_messages.jsonl",
    "prompt_null_text.jsonl",
    "sharegpt.json",
    "sharegpt.jsonl",
    "vllm_custom.jsonl",
    "zipped.jsonl",
    "zipped.jsonl.gz",
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be written to; its models get random weights by their own configuration."""
    import torch
    import transformers

    copy = tmp_path_factory.mktemp("field")
    for number in ("07", "08", "12", "15"):
        (case,) = CASES.glob(f"{number}-*")
        shutil.copytree(case, copy / number, copy_function=shutil.copyfile)
        for folder in (copy / number).glob("**/"):
            folder.chmod(0o755)
        for described in (copy / number).glob("model*/config.json"):
            torch.manual_seed(1)
            shape = transformers.AutoConfig.from_pretrained(described.parent)
            model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
            model.save_pretrained(described.parent)
    return copy


def run(place: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result and what was said."""
    done = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "run", *arguments, "--json", "-q"],
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "LLEM_CACHE_DIR": str(place / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def walked(result: dict[str, Any], n: int) -> float:
    """Output tokens of one walk over the workload."""
    return float(result["tokens"]["output"] / (result["tokens"]["requests"] / n))


def test_synthetic_prompts_stay_within_an_embedding_that_is_shorter_than_the_tokenizer(cases: Path) -> None:
    code, result, said = run(cases / "07", "--model", "./model", "-d", "synthetic", "-n", "16", *QUICK)
    assert code == 0, said
    assert result["tokens"]["pinned_ok"]


def test_a_text_with_an_id_beyond_the_embedding_is_refused_by_prompt_and_id(cases: Path) -> None:
    code, _, said = run(cases / "07", "--model", "./model", "-d", "./extra.jsonl", "-n", "2", *QUICK)
    assert code == 1
    assert "PreFlightError" in said
    assert "prompt 2" in said
    assert "263" in said
    assert "260 rows" in said


@pytest.mark.parametrize("length", ["exact", "natural"])
def test_a_model_without_pad_and_end_runs_in_batches(cases: Path, length: str) -> None:
    asked = ("--model", "model", "-n", "8", "--batch-size", "4", "--set", f"output_length={length}")
    code, result, said = run(cases / "08", *asked, *QUICK)
    assert code == 0, said
    assert walked(result, 8) == 64
    assert result["tokens"]["pinned_ok"] is (True if length == "exact" else None)


@pytest.mark.parametrize("name", READ)
def test_a_dataset_is_read(cases: Path, name: str) -> None:
    asked = ("-b", "simulated", "--model", "any", "-d", f"./{name}", "-n", "1", "--preset", "smoke")
    code, _, said = run(cases / "12", *asked, "--dry-run")
    assert code == 0, said


def test_a_dataset_in_utf_16_is_named_as_such(cases: Path) -> None:
    asked = ("-b", "simulated", "--model", "any", "-d", "./utf16.jsonl", "-n", "1", "--dry-run")
    code, _, said = run(cases / "12", *asked)
    assert code == 2
    assert "UTF-16" in said


@pytest.mark.parametrize(("name", "unit"), [("sharegpt.json", "record"), ("sharegpt.jsonl", "line")])
def test_odd_conversations_are_skipped_and_counted(cases: Path, name: str, unit: str) -> None:
    asked = ("-b", "simulated", "--model", "any", "-d", name, "-n", "1", "--preset", "smoke")
    code, result, said = run(cases / "12", *asked)
    assert code == 0, said
    facts = result["dataset"]
    assert (facts["records"], facts["numbered_by"], facts["formats"]) == (5, unit, ["ShareGPT"])
    assert [(one["count"], one["first"]) for one in facts["skipped"]] == [(1, [at]) for at in (2, 3, 4, 5)]


def test_each_record_gets_the_output_length_that_it_names(cases: Path) -> None:
    asked = ("-b", "simulated", "--model", "any", "-d", "vllm_custom.jsonl", "-n", "2", "--preset", "smoke")
    code, result, said = run(cases / "12", *asked)
    assert code == 0, said
    assert walked(result, 2) == 20
    assert result["tokens"]["pinned_ok"]


@pytest.mark.parametrize("model", ["model", "model2"])
def test_a_template_that_raises_is_refused_and_may_be_switched_off(cases: Path, model: str) -> None:
    asked = ("--model", f"./{model}", "-n", "2", *QUICK)
    code, _, said = run(cases / "15", *asked)
    assert code == 1
    assert "PreFlightError" in said
    assert "--set dataset.chat_template=off" in said
    code, result, said = run(cases / "15", *asked, "--set", "dataset.chat_template=off")
    assert code == 0, said
    assert result["tokens"]["pinned_ok"]
