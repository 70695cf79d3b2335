from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError, PreFlightError
from llenergymeasure.records import Request
from llenergymeasure.workload import Prompt, load_prompts
from llenergymeasure.workload.formats import Turn
from llenergymeasure.workload.prepared import build_requests, check_ids, workload_hash
from llenergymeasure.workload.tokenizer import ByteTokenizer, ChatTemplateError

SPECIAL = frozenset({0, 1, 2, 255})
BYTES = ByteTokenizer(256, SPECIAL)


def config(**fields: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "n": 1, **fields})


def texts(path: Path, **fields: object) -> list[str | None]:
    return [prompt.text for prompt in load_prompts(config(dataset=str(path), **fields)).prompts]


def lines(path: Path, *each: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in each), encoding="utf-8")
    return path


# The built-in prompts


def test_mixed_holds_two_hundred_different_prompts_of_six_kinds() -> None:
    prompts = load_prompts(config(n=200)).prompts
    assert len({prompt.text for prompt in prompts}) == 200
    kinds = Counter(prompt.id.rpartition("-")[0] for prompt in prompts)
    assert set(kinds) == {"chat", "summarising", "code", "extraction", "translation", "reasoning"}
    assert min(kinds.values()) >= 20


def test_mixed_runs_from_short_to_long_and_beyond_ascii() -> None:
    found = [prompt.text or "" for prompt in load_prompts(config(n=200)).prompts]
    words = sorted(len(text.split()) for text in found)
    assert words[0] <= 10
    assert 30 <= words[100] <= 60
    assert words[-1] >= 450
    assert sum(not text.isascii() for text in found) >= 20
    assert all(text == text.strip() for text in found)


def test_another_seed_gives_another_order() -> None:
    assert load_prompts(config(n=20)).prompts == load_prompts(config(n=20)).prompts
    assert load_prompts(config(n=20)).prompts != load_prompts(config(n=20, random_seed=1)).prompts


def test_the_order_under_a_seed_is_the_same_in_every_release(tmp_path: Path) -> None:
    path = lines(tmp_path / "five.jsonl", "a", "b", "c", "d", "e")
    assert texts(path, n=5, random_seed=42) == ["d", "b", "c", "e", "a"]


@given(n=st.integers(1, 199), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_larger_n_begins_with_the_same_prompts(n: int, seed: int) -> None:
    more = load_prompts(config(n=n + 1, random_seed=seed)).prompts
    assert load_prompts(config(n=n, random_seed=seed)).prompts == more[:n]


def test_more_prompts_than_there_are_is_an_error_with_three_ways_out() -> None:
    with pytest.raises(ConfigError, match="mixed has 200 prompts, and n is 201") as caught:
        load_prompts(config(n=201))
    assert caught.value.exit_code == 2
    for way in ("200", ".jsonl", "synthetic"):
        assert way in str(caught.value.hint)


# The prompts of AI Energy Score


def test_its_prompts_are_a_thousand_different_ones_where_its_dataset_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = load_prompts(config(n=1000, dataset="ai-energy-score"))
    assert len({prompt.text for prompt in found.prompts}) == len({one.id for one in found.prompts}) == 1000
    assert "EnergyStarAI/text_generation" in str(found.facts.remark)
    with pytest.raises(ConfigError):
        load_prompts(config(n=1001, dataset="ai-energy-score"))


# Other names


def test_an_unknown_name_gets_the_nearest_one_and_the_way_to_a_file() -> None:
    with pytest.raises(ConfigError, match="no dataset 'mixd'") as caught:
        load_prompts(config(dataset="mixd"))
    assert "did you mean mixed?" in str(caught.value.hint)
    assert ".jsonl" in str(caught.value.hint)


def install_plugin(folder: Path, code: str) -> None:
    (folder / "llem_test_plugin.py").write_text(code)
    info = folder / "llem_test_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-test-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llenergymeasure.datasets]\nriddles = llem_test_plugin:riddles\n")
    sys.modules.pop("llem_test_plugin", None)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("https://huggingface.co/datasets/openai/gsm8k/viewer/main/test", "hf:openai/gsm8k:main:test"),
        ("huggingface.co/datasets/squad", "hf:squad"),
        ("hf://datasets/openai/gsm8k", "hf:openai/gsm8k"),
        ("openai/gsm8k", "hf:openai/gsm8k"),
        ("https://example.com/prompts.jsonl", "download it"),
        (r"C:\data\my prompts.jsonl", "/mnt/c/data/my prompts.jsonl"),
        (r"data\prompts.jsonl", "data/prompts.jsonl"),
        ("$DATA/prompts.jsonl", "shell"),
    ],
)
def test_what_is_pasted_instead_of_a_name_gets_the_name(name: str, way_out: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_prompts(config(dataset=name))
    assert name in caught.value.message.replace("\\\\", "\\")
    assert way_out in str(caught.value.hint)


def test_a_plugin_yields_records_of_any_known_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "def riddles(name):\n    yield {'question': 'why?', 'output_tokens': 3}\n    yield {'text': ''}\n"
    install_plugin(tmp_path, code)
    found = load_prompts(config(dataset="riddles"))
    assert found.prompts == (Prompt("1", "why?", output_tokens=3),)
    assert [(one.count, one.first) for one in found.facts.skipped] == [(1, (2,))]


def test_a_plugin_names_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install_plugin(tmp_path, "def riddles(name):\n    yield from (f'{name} 1', f'{name} 2')\n")
    assert set(texts(Path("riddles"), n=2)) == {"riddles 1", "riddles 2"}
    with pytest.raises(ConfigError, match="riddles has 2 prompts"):
        texts(Path("riddles"), n=3)
    with pytest.raises(ConfigError) as caught:
        load_prompts(config(dataset="ridles"))
    assert "did you mean riddles?" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('no such thing')", "can't be loaded: ImportError: no such thing"),
        ("other = 1", "can't be loaded"),
        ("def riddles(name):\n    yield 'fine'\n    yield 5\n", "record 2 is a number"),
    ],
)
def test_a_broken_plugin_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install_plugin(tmp_path, code)
    with pytest.raises(ConfigError, match=says) as caught:
        load_prompts(config(dataset="riddles"))
    assert "riddles" in caught.value.message


# Requests


def synthetic(n: int, length: int, seed: int = 42) -> tuple[Request, ...]:
    asked = config(
        n=n,
        dataset={"name": "synthetic", "prompt_tokens": length},
        max_input_tokens=length,
        random_seed=seed,
    )
    return build_requests(asked, load_prompts(asked).prompts, BYTES).requests


@given(n=st.integers(1, 20), length=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_synthetic_prompts_have_exact_lengths_and_no_special_ids(n: int, length: int, seed: int) -> None:
    requests = synthetic(n, length, seed)
    assert [len(request.prompt) for request in requests] == [length] * n
    assert [request.index for request in requests] == list(range(n))
    assert all(0 <= token < 256 and token not in SPECIAL for one in requests for token in one.prompt)
    assert synthetic(n + 1, length, seed)[:n] == requests


def test_synthetic_prompts_use_the_whole_vocabulary_evenly_and_differ() -> None:
    requests = synthetic(8, 8192)
    counts = Counter(token for request in requests for token in request.prompt)
    assert set(counts) == set(range(256)) - SPECIAL
    expected = 8 * 8192 / 252
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert 150 < chi_squared < 360  # 251 degrees of freedom: mean 251, standard deviation 22
    assert len({request.prompt for request in requests}) == 8
    assert synthetic(1, 64, seed=1) != synthetic(1, 64, seed=2)


def test_synthetic_prompts_longer_than_the_input_limit_are_refused() -> None:
    asked = config(dataset={"name": "synthetic", "prompt_tokens": 65}, max_input_tokens=64)
    with pytest.raises(ConfigError, match="prompt_tokens 65 is more than max_input_tokens 64"):
        load_prompts(asked)


def test_a_text_longer_than_the_input_limit_keeps_its_start_and_is_counted() -> None:
    workload = build_requests(
        config(n=3, max_input_tokens=4), [Prompt("a", "abcde"), Prompt("b", "abcd"), Prompt("c", "x")], BYTES
    )
    assert [request.prompt for request in workload.requests] == [tuple(b"abcd"), tuple(b"abcd"), (ord("x"),)]
    assert workload.cut == 1


@pytest.mark.parametrize(("output_length", "exact"), [("exact", True), ("natural", False)])
def test_what_is_wanted_of_a_request_comes_from_the_configuration(output_length: str, exact: bool) -> None:
    asked = config(max_output_tokens=17, output_length=output_length)
    (request,) = build_requests(asked, [Prompt("a", "hi")], BYTES).requests
    assert request == Request(0, tuple(b"hi"), 17, exact)


@dataclass(frozen=True)
class Talking:
    """A tokenizer with a chat template: it puts 1 before and 2 after a turn, and refuses a system's."""

    ordinary_ids: tuple[int, ...] = tuple(range(3, 255))
    hash: str = "h"
    chat_template_hash: str | None = "t"
    chat_template_date: str | None = None

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return bytes(ids).decode()

    def encode(self, text: str, *, chat: Sequence[Turn] = ()) -> list[int]:
        if any(role == "system" for role, _ in chat):
            raise ChatTemplateError("no system here")
        if not chat:
            return list(text.encode())
        return [token for _, content in chat for token in (1, *content.encode(), 2)]


@pytest.mark.parametrize(("template", "tokens"), [("auto", (1, 104, 105, 2)), ("off", (104, 105))])
def test_the_chat_template_is_applied_unless_switched_off(template: str, tokens: tuple[int, ...]) -> None:
    asked = config(dataset={"name": "mixed", "chat_template": template})
    (request,) = build_requests(asked, [Prompt("a", "hi")], Talking()).requests
    assert request.prompt == tokens


def test_a_conversation_reaches_the_template_turn_by_turn_and_without_one_as_its_texts() -> None:
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
    prompt = Prompt("1", "a\n\nb\n\nc", turns=turns)
    (request,) = build_requests(config(), [prompt], Talking()).requests
    assert request.prompt == (1, 97, 2, 1, 98, 2, 1, 99, 2)
    off = config(dataset={"name": "mixed", "chat_template": "off"})
    assert bytes(build_requests(off, [prompt], Talking()).requests[0].prompt) == b"a\n\nb\n\nc"


def test_a_template_that_raises_is_refused_with_the_prompt_and_the_way_out() -> None:
    prompts = [Prompt("fine", "a"), Prompt("odd-7", "s\n\na", turns=(("system", "s"), ("user", "a")))]
    with pytest.raises(
        PreFlightError, match="any refuses prompt odd-7 of dataset mixed: no system"
    ) as caught:
        build_requests(config(n=2), prompts, Talking())
    assert "dataset.chat_template=off" in str(caught.value.hint)


def test_ids_beyond_the_embedding_are_never_drawn_and_change_no_other_draw() -> None:
    asked = config(n=4, dataset={"name": "synthetic", "prompt_tokens": 500}, max_input_tokens=500)
    prompts = load_prompts(asked).prompts
    short = build_requests(asked, prompts, BYTES, rows=100).requests
    assert {token for request in short for token in request.prompt} == set(range(3, 100))
    assert build_requests(asked, prompts, BYTES, rows=300) == build_requests(asked, prompts, BYTES)


def test_a_text_with_an_id_beyond_the_embedding_is_refused_by_prompt_and_id() -> None:
    prompts = [Prompt("a", "~"), Prompt("b", "\x7f")]
    workload = build_requests(config(n=2), prompts, BYTES)
    check_ids(config(n=2), prompts, workload, rows=128)
    check_ids(config(n=2), prompts, workload, rows=None)
    with pytest.raises(PreFlightError, match=r"prompt b of dataset mixed holds token id 127.* 127 rows"):
        check_ids(config(n=2), prompts, workload, rows=127)


def test_a_prompt_with_a_length_of_its_own_gets_it_and_the_others_the_experiment_s() -> None:
    prompts = [Prompt("a", "x", output_tokens=3), Prompt("b", "y")]
    requests = build_requests(config(n=2, max_output_tokens=9), prompts, BYTES).requests
    assert [(one.max_output_tokens, one.exact) for one in requests] == [(3, True), (9, True)]


def test_an_empty_text_needs_at_least_one_token() -> None:
    empty = [Prompt("hello-1", "")]
    assert build_requests(config(), empty, Talking()).requests[0].prompt == (1, 2)
    with pytest.raises(ConfigError, match="prompt hello-1 of dataset mixed has no tokens"):
        build_requests(config(), empty, BYTES)


def test_the_hash_of_a_workload_sees_ids_borders_and_order_and_nothing_else() -> None:
    def of(*prompts: tuple[int, ...], most: int = 8) -> str:
        return workload_hash([Request(k, ids, most, exact=True) for k, ids in enumerate(prompts)])

    different = [of((1, 2), (3,)), of((1,), (2, 3)), of((3,), (1, 2)), of((1, 2, 3)), of((12,), (3,)), of()]
    assert len(set(different)) == len(different)
    assert of((1, 2), most=8) == of((1, 2), most=9)
    # printf '1,2\n3\n' | sha256sum
    assert of((1, 2), (3,)) == "03e9f88947d783d7ad9eeff19f452d8ad4ac9a7aa18829d82196f9cf41d2748f"
