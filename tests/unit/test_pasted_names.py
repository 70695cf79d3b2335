"""Does what people paste from elsewhere get the name, the key or the value that it has here?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.suggest import _same_values, is_free, known_keys, nearest, nearest_key, peer_keys
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.pasted import pasted_dataset
from llenergymeasure.models.resolve import resolve


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("https://huggingface.co/org/name", "--model org/name"),
        ("https://huggingface.co/org/name/tree/v1.2?x=1", "--model org/name"),
        ("https://hf.co/gpt2/blob/main/config.json", "--model gpt2"),
        ("huggingface.co/org/name/", "--model org/name"),
        ("hf:org/name", "--model org/name"),
        ("hf://org/name", "--model org/name"),
        ("https://huggingface.co/datasets/org/name", "--dataset hf:org/name"),
        ("https://example.com/model.gguf", "download it"),
        ("s3://bucket/model", "copy it"),
        ("ollama:llama3:8b", "ollama show llama3:8b --modelfile"),
        ("llama3:8b", "ollama show llama3:8b --modelfile"),
        (r"C:\models\llama", "/mnt/c/models/llama"),
        ("D:/models/llama", "/mnt/d/models/llama"),
        (r"models\llama", "models/llama"),
        ("$MODELS/llama", "shell"),
        ('"gpt2"', "gpt2"),
    ],
)
def test_what_is_pasted_instead_of_a_model_s_name_gets_the_name(name: str, way_out: str) -> None:
    with pytest.raises(PreFlightError) as caught:
        resolve(name)
    assert repr(name) in caught.value.message
    hint = str(caught.value.hint)
    assert way_out in hint
    assert hint.rstrip("/") == hint
    assert ("'v1.2'" in hint) == ("v1.2" in name)


@pytest.mark.parametrize("kind", ["--model", "--dataset"])
@pytest.mark.parametrize("host", ["huggingface.co/org/name", "example.com/file.jsonl"])
def test_a_password_in_an_address_is_not_repeated(kind: str, host: str) -> None:
    model = [] if kind == "--model" else ["-m", "gpt2"]
    for more in ([], ["--dry-run"]):
        done = CliRunner().invoke(app, ["run", *model, kind, f"https://me:hunter2@{host}", *more])
        assert done.exit_code in {1, 2}
        assert host in done.output
        assert "hunter2" not in done.output


def test_a_dataset_may_have_a_colon_in_its_name() -> None:
    assert pasted_dataset("hf:squad") is None
    assert pasted_dataset("hf:org/name:config:train") is None


def test_a_folder_that_is_there_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a$b", r"a\b"):
        Path(name).mkdir()
        with pytest.raises(PreFlightError, match=r"holds no config\.json"):
            resolve(name)


def test_every_key_of_another_program_leads_to_one_that_exists() -> None:
    known = known_keys()
    for peer, key in peer_keys().items():
        assert key in known or is_free(known[key.rpartition(".")[0]]), key
        assert peer not in known
        assert nearest_key(peer) == nearest_key(f"backend.{peer}") == key


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("torch_dtype", "precision"),
        ("revision", "pytorch.revision"),
        ("backend.model", "model"),
        ("scenario.generate_kwargs.max_new_tokens", "max_output_tokens"),
        ("max-new-tokens", "max_output_tokens"),
        ("seed", "random_seed"),
        ("backend.name", "backend"),
        ("tensor_parallel_size", "vllm.engine.tensor_parallel_size"),
        ("temprature", "decoder.temperature"),
    ],
)
def test_a_pasted_key_is_told_what_it_is_here(key: str, meant: str) -> None:
    assert nearest_key(key) == meant


def test_a_value_of_another_program_is_told_what_it_is_here() -> None:
    precisions = ["fp32", "fp16", "bf16", "int8", "int4"]
    assert [nearest(name, precisions) for name in ("torch.float16", "half", "bfloat16", "4bit")] == [
        "fp16",
        "fp16",
        "bf16",
        "int4",
    ]
    known = {*precisions, "pytorch", "llamacpp", "tensorrt"}
    assert set(_same_values().values()) <= known
    assert ExperimentConfig.model_fields["precision"].default in precisions


def run(*arguments: str, text: str = "", **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "run", *arguments, "--dry-run"],
        input=text,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


EXPERIMENT = "model: any\nbackend: simulated\n\ndataset:\n  name: synthetic\nn: 7\n"


def test_an_experiment_is_read_from_standard_input_with_flags_on_top() -> None:
    code, said = run("-", "-n", "3", text=EXPERIMENT)
    assert code == 0
    lines = [line.split(maxsplit=2) for line in said.splitlines()]
    assert ["n", "3", "flag"] in lines
    assert ["dataset.name", "synthetic", "standard input"] in lines


@pytest.mark.parametrize("way", ["file", "standard input"])
def test_a_bad_value_is_told_with_the_line_it_is_in(tmp_path: Path, way: str) -> None:
    text = EXPERIMENT.replace("n: 7", "n: -7").replace("name: synthetic", "chat_template: maybe\n  colum: x")
    path = tmp_path / "own.yaml"
    path.write_text(text)
    arguments, place = (("-",), way) if way != "file" else ((str(path),), f"file {path}")
    code, said = run(*arguments, text=text)
    assert code == 2
    assert f"({place}, line 6); did you mean dataset.column?" in said
    code, said = run(*arguments, text=text.replace("  colum: x\n", ""))
    assert code == 2
    if way != "file":
        assert f"got -7 ({place}, line 6)" in said
        assert f"auto, off ({place}, line 5)" in said


def test_a_bad_value_is_told_with_its_variable_or_flag() -> None:
    code, said = run("--model", "any", "-p", "half", LLEM_N="-3")
    assert code == 2
    assert "got -3 (environment LLEM_N)" in said
    assert "(flag)" in next(line for line in said.splitlines() if "fp16" in line)


def test_tabs_are_named_in_yaml(tmp_path: Path) -> None:
    code, said = run("-", text="model: any\nn:\n\t- 3\n")
    assert code == 2
    assert "line 3" in said
    assert "use spaces" in said


def test_an_empty_argument_may_be_an_unset_variable() -> None:
    code, said = run("--model", "")
    assert code == 2
    assert "unset" in said
