from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.tokenizers import ByteTokenizer
from llenergymeasure.records import Request
from llenergymeasure.workload import Prompt, build_requests, load_prompts, workload_hash

SPECIAL = frozenset({0, 1, 2, 255})
BYTES = ByteTokenizer(256, SPECIAL)


def config(**fields: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "n": 1, **fields})


def texts(path: Path, **fields: object) -> list[str | None]:
    return [prompt.text for prompt in load_prompts(config(dataset=str(path), **fields))]


def lines(path: Path, *each: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in each), encoding="utf-8")
    return path


# The built-in prompts


def test_mixed_holds_two_hundred_different_prompts_of_six_kinds() -> None:
    prompts = load_prompts(config(n=200))
    assert len({prompt.text for prompt in prompts}) == 200
    kinds = Counter(prompt.id.rpartition("-")[0] for prompt in prompts)
    assert set(kinds) == {"chat", "summarising", "code", "extraction", "translation", "reasoning"}
    assert min(kinds.values()) >= 20


def test_mixed_runs_from_short_to_long_and_beyond_ascii() -> None:
    found = [prompt.text or "" for prompt in load_prompts(config(n=200))]
    words = sorted(len(text.split()) for text in found)
    assert words[0] <= 10
    assert 30 <= words[100] <= 60
    assert words[-1] >= 450
    assert sum(not text.isascii() for text in found) >= 20
    assert all(text == text.strip() for text in found)


def test_another_seed_gives_another_order() -> None:
    assert load_prompts(config(n=20)) == load_prompts(config(n=20))
    assert load_prompts(config(n=20)) != load_prompts(config(n=20, random_seed=1))


def test_the_order_under_a_seed_is_the_same_in_every_release(tmp_path: Path) -> None:
    path = lines(tmp_path / "five.jsonl", "a", "b", "c", "d", "e")
    assert texts(path, n=5, random_seed=42) == ["d", "b", "c", "e", "a"]


@given(n=st.integers(1, 199), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_larger_n_begins_with_the_same_prompts(n: int, seed: int) -> None:
    more = load_prompts(config(n=n + 1, random_seed=seed))
    assert load_prompts(config(n=n, random_seed=seed)) == more[:n]


def test_more_prompts_than_there_are_is_an_error_with_three_ways_out() -> None:
    with pytest.raises(ConfigError, match="mixed has 200 prompts, and n is 201") as caught:
        load_prompts(config(n=201))
    assert caught.value.exit_code == 2
    for way in ("200", ".jsonl", "synthetic"):
        assert way in str(caught.value.hint)


# Files


def test_a_line_is_a_string_or_an_object(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf"plain"\n\n  \n{"prompt": "p", "text": "unused", "id": 7}\n{"text": "t \xc3\xbc"}'
    )
    prompts = sorted(load_prompts(config(dataset=str(path), n=3)), key=lambda prompt: prompt.id)
    assert prompts == [Prompt("1", "plain"), Prompt("5", "t ü"), Prompt("7", "p")]


def test_a_relative_path_and_the_home_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path / "own.jsonl", "here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts(Path("own.jsonl")) == texts(Path("~/own.jsonl")) == ["here"]


def test_the_same_id_or_text_twice_is_fine(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "a"})
    assert texts(path, n=2) == ["a", "a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'"fine"\n{"prompt": \n', r"line 2 is not valid JSON"),
        (b'"fine"\n\n{"question": "?"}\n', r"line 3 has neither a prompt nor a text"),
        (b'"fine"\n{"prompt": 5}\n', r"line 2: a prompt must be text, got int"),
        (b'["a", "b"]\n', r"line 1: a prompt must be text, got list"),
        (b'{"prompt": null, "text": "x"}\n', r"line 1: a prompt must be text, got NoneType"),
        (b'"fine"\n"\xff"\n', r"line 2 is not UTF-8"),
        (b'"\\ud800"\n', r"line 1 is not valid Unicode"),
        (b"[" * 100_000, r"line 1 is not valid JSON"),
        (b'"' + b"x" * 2**23 + b'"\n', r"line 1 is longer than 8388608 bytes"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_prompts(config(dataset=str(path)))
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ConfigError, match=r"has 1\.1 GB"):
        load_prompts(config(dataset=str(path)))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, says in [
        ("absent.jsonl", "there is no dataset file"),
        ("folder.jsonl", "no ordinary file"),
        ("pipe.jsonl", "no ordinary file"),
        ("x" * 5000 + ".jsonl", "can't be read"),
    ]:
        with pytest.raises(ConfigError, match=says) as caught:
            load_prompts(config(dataset=str(tmp_path / name)))
        assert str(tmp_path / name) in caught.value.message


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
        ("def riddles(name):\n    yield 'fine'\n    yield 5\n", "prompt 2 must be text, got int"),
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
    return build_requests(asked, load_prompts(asked), BYTES).requests


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
    """A tokenizer with a chat template: it puts 1 before and 2 after a user's turn."""

    vocab_size: int = 256
    special_ids: frozenset[int] = SPECIAL
    hash: str = "h"
    chat_template_hash: str | None = "t"

    def encode(self, text: str, *, chat: bool) -> list[int]:
        return [1, *text.encode(), 2] if chat else list(text.encode())


@pytest.mark.parametrize(("template", "tokens"), [("auto", (1, 104, 105, 2)), ("off", (104, 105))])
def test_the_chat_template_is_applied_unless_switched_off(template: str, tokens: tuple[int, ...]) -> None:
    asked = config(dataset={"name": "mixed", "chat_template": template})
    (request,) = build_requests(asked, [Prompt("a", "hi")], Talking()).requests
    assert request.prompt == tokens


def test_an_empty_text_needs_at_least_one_token() -> None:
    empty = [Prompt("hello-1", "")]
    assert build_requests(config(), empty, Talking()).requests[0].prompt == (1, 2)
    with pytest.raises(ConfigError, match="prompt hello-1 of dataset mixed comes to no token"):
        build_requests(config(), empty, BYTES)


def test_the_hash_of_a_workload_sees_ids_borders_and_order_and_nothing_else() -> None:
    def of(*prompts: tuple[int, ...], most: int = 8) -> str:
        return workload_hash([Request(k, ids, most, exact=True) for k, ids in enumerate(prompts)])

    different = [of((1, 2), (3,)), of((1,), (2, 3)), of((3,), (1, 2)), of((1, 2, 3)), of((12,), (3,)), of()]
    assert len(set(different)) == len(different)
    assert of((1, 2), most=8) == of((1, 2), most=9)
    # printf '1,2\n3\n' | sha256sum
    assert of((1, 2), (3,)) == "03e9f88947d783d7ad9eeff19f452d8ad4ac9a7aa18829d82196f9cf41d2748f"
