from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import (
    VOCAB,
    Log,
    asked,
    configured,
    copied,
    counts,
    opening,
    prompt,
    save_tiny_llama,
    tokens,
)

from llenergymeasure.backends.pytorch import PytorchBackend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.records import Request

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def looping(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import load_file, save_file

    folder = copied(tiny, tmp_path_factory.mktemp("looping"))
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "o_proj" in name:
            weights[name].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def plain(folder: Path, request: Request, **settings: Any) -> list[int]:
    """What transformers itself says to one request."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig()
    decoding = transformers.GenerationConfig(
        max_new_tokens=request.max_output_tokens, pad_token_id=0, **settings
    )
    ids = torch.tensor([request.prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=decoding)
    row: list[int] = output[0, len(request.prompt) :].tolist()
    return row


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_attention_implementation_is_the_one_that_computes(tiny: Path, attention: str) -> None:
    import torch

    with opened(configured(tiny, attn_implementation=attention)) as session:
        assert session.facts().arguments["attn_implementation"] == attention
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            session.generate(asked([5], output=2), Log())
        calls = [event.key for event in profile.key_averages()]
    assert ("aten::scaled_dot_product_attention" in calls) == (attention == "sdpa")


@pytest.mark.parametrize(
    ("attention", "part"),
    [
        ("flash_attention_2", "package flash_attn"),
        ("flash_attention_3", "package flash_attn_interface"),
        ("flex_attention", "compiled anew for every length"),
    ],
)
def test_an_attention_that_this_device_has_not_is_refused(tiny: Path, attention: str, part: str) -> None:
    why = PytorchBackend().why_refused(configured(tiny, attn_implementation=attention))
    assert why is not None
    assert part in str(why)
    assert "--set pytorch.attn_implementation=sdpa" in str(why)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_no_pass_holds_a_compiler(tiny: Path, mode: str) -> None:
    from torch._dynamo.utils import counters

    config = configured(tiny, compile=True, compile_mode=mode, batch_size=2, n=3)
    requests = asked([3, 17, 8], output=12)
    with opened(config) as session:
        before = dict(counters["stats"])
        said = session.generate(requests, Log()).output_ids
        session.generate(asked([1, 30, 25], output=3), Log())
        assert dict(counters["stats"]) == before
        assert before["unique_graphs"] > 0
        facts = session.facts()
    assert facts.arguments["compile_mode"] == mode
    assert [list(row) for row in said or ()] == tokens(configured(tiny), requests, batch=1)


def test_beam_search_returns_the_best_beam_and_tells_no_first_token(tiny: Path) -> None:
    requests = asked([3, 17, 8], output=12)
    config = configured(tiny, num_beams=3, batch_size=2)
    with PytorchBackend().open(config) as session:
        generation = session.generate(requests, Log())
        facts = session.facts()
    assert generation.output_ids is not None
    assert [list(row) for row in generation.output_ids] == [
        plain(tiny, request, num_beams=3, min_new_tokens=12) for request in requests
    ]
    assert [list(row) for row in generation.output_ids] != tokens(configured(tiny), requests, batch=1)
    assert {done.t_first_ns for done in generation.completions} == {None}
    assert generation.completions[0].t_end_ns == generation.completions[1].t_end_ns
    assert all(done.t_sent_ns < done.t_end_ns for done in generation.completions)
    assert facts.arguments["num_beams"] == 3
    with opened(configured(tiny, batch_size=2)) as session:
        session.generate(requests, Log())
        one = session.facts().kv_cache_bytes
    assert facts.kv_cache_bytes == 3 * (one or 0)


def test_beams_of_unlike_lengths_in_a_batch_are_each_the_best_of_their_own(tiny: Path) -> None:
    requests = [
        Request(at, prompt(5 + at, start=at), length, exact=True) for at, length in enumerate((12, 3, 12))
    ]
    with PytorchBackend().open(configured(tiny, num_beams=3, batch_size=3)) as session:
        generation = session.generate(requests, Log())
    assert [list(row) for row in generation.output_ids or ()] == [
        plain(tiny, one, num_beams=3, min_new_tokens=one.max_output_tokens) for one in requests
    ]


def test_beams_that_end_by_themselves_are_counted_to_their_end(tiny: Path, tmp_path: Path) -> None:
    requests = asked([3, 17, 8, 30], output=16, exact=False)
    said = tokens(configured(tiny, num_beams=2), requests, batch=1)
    end = said[0][3]
    ending = save_tiny_llama(tmp_path, eos=end)
    with PytorchBackend().open(configured(ending, num_beams=2, batch_size=4)) as session:
        generation = session.generate(requests, Log())
    for done, row in zip(generation.completions, generation.output_ids or (), strict=True):
        assert done.output_tokens == len(row)
        assert end not in row[:-1]
        assert (done.finish == "eos") == (row[-1] == end)
    assert "eos" in {done.finish for done in generation.completions}


@pytest.mark.parametrize("guessing", ["prompt_lookup", "assistant"])
def test_guessed_tokens_come_several_at_a_time_and_are_those_of_the_model_alone(
    looping: Path, guessing: str
) -> None:
    options = (
        {"prompt_lookup_num_tokens": 4} if guessing == "prompt_lookup" else {"assistant_model": str(looping)}
    )
    # Without attention the next token depends on the last alone, and goes round before 97 are through.
    request = Request(0, prompt(6), 64, exact=True)
    alone = tokens(configured(looping), [request], batch=1)[0]
    with opened(configured(looping, **options)) as session:
        generation = session.generate([request], Log())
        steps = session._run([request])
        facts = session.facts()
    assert [list(row) for row in generation.output_ids or ()] == [alone]
    assert steps.stamps_ns is not None
    assert len(steps.stamps_ns) == 64
    assert steps.stamps_ns == sorted(steps.stamps_ns)
    assert len(set(steps.stamps_ns)) < 64, "no step brought more than one token"
    assert counts(generation) == [64]
    (name, value) = next(iter(options.items()))
    assert facts.arguments[name] == value


def test_an_assistant_takes_memory_of_its_own(tiny: Path) -> None:
    with opened(configured(tiny)) as session:
        alone = session.facts()
    with opened(configured(tiny, assistant_model=str(tiny))) as session:
        both = session.facts()
    assert both.parameters == alone.parameters
    assert both.weights_bytes == 2 * (alone.weights_bytes or 0)


def test_an_assistant_of_another_vocabulary_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    description = (folder / "config.json").read_text()
    (folder / "config.json").write_text(description.replace(f'"vocab_size": {VOCAB}', '"vocab_size": 50'))
    error = opening(configured(tiny, assistant_model=str(folder)))
    assert "vocabulary of 50 tokens" in error.message
    assert f"one of {VOCAB}" in error.message


@pytest.mark.parametrize(
    ("options", "part", "way_out"),
    [
        ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, "beam search excludes", "pytorch.num_beams=1"),
        ({"num_beams": 2, "cache_implementation": "quantized"}, "reordered", "cache_implementation"),
        ({"num_beams": 2, "compile": True}, "does not compile beam search", "pytorch.compile=false"),
        ({"prompt_lookup_num_tokens": 3, "assistant_model": "x"}, "both guess", "leave one"),
        ({"prompt_lookup_num_tokens": 3, "batch_size": 2}, "one request at a time", "pytorch.batch_size=1"),
        ({"prompt_lookup_num_tokens": 3, "cache_implementation": "static"}, "dynamic cache", "leave one"),
        ({"assistant_model": "./nowhere"}, "no such file", "same family"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_way_out(
    tiny: Path, options: dict[str, Any], part: str, way_out: str
) -> None:
    error = opening(configured(tiny, **options))
    assert part in error.message
    assert error.hint is not None
    assert way_out in error.hint
