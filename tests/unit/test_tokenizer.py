from __future__ import annotations

import re
import time
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.workload import tokenizer as tokenizer_module
from llenergymeasure.workload.formats import Turn
from llenergymeasure.workload.tokenizer import (
    _FIXED,
    PINNED,
    ByteTokenizer,
    ChatTemplateError,
    Tokenizer,
    load_tokenizer,
    pinned_date,
)


def user(text: str) -> tuple[Turn]:
    return (("user", text),)


@given(st.text(), st.integers(1, 300))
def test_a_byte_is_a_token_that_lies_in_the_vocabulary(text: str, vocab: int) -> None:
    tokenizer: Tokenizer = ByteTokenizer(vocab)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert all(0 <= token < vocab for token in ids)
    assert tokenizer.encode(text, chat=user(text)) == ids


def test_the_hash_of_a_byte_tokenizer_is_that_of_its_vocabulary() -> None:
    assert ByteTokenizer(1000).hash == ByteTokenizer(1000).hash
    assert ByteTokenizer(1000).hash != ByteTokenizer(1001).hash
    assert ByteTokenizer(1000).chat_template_hash is None


@pytest.mark.real
def test_a_directory_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PreFlightError, match="no tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "tokenizer.json" in str(caught.value.hint)


WORDS = ["<unk>", "<s>", "</s>", "hello", "world", "26", "Jul", "2024", "today", ":"]
TEMPLATE = (
    "{{ '<s>' }}"
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'today : ' + date_string + ' ' }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '</s>' }}{% endif %}"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tokenizer of ten words whose chat template wants today's date."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.real
def test_a_chat_is_wrapped_in_the_template_with_a_pinned_date(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    text = "hello world"
    assert tokenizer.encode(text) == [3, 4]
    assert tokenizer.encode(text, chat=user(text)) == [1, 8, 9, 5, 6, 7, 3, 4, 2]
    assert tokenizer.chat_template_date == "2024-07-26"


CLOCK = (
    "{{ strftime_now('%d') }} {{ strftime_now('%B') }} {{ strftime_now('%Y') }} {{ messages[0]['content'] }}"
)


@pytest.mark.real
@pytest.mark.parametrize(
    "changed", [{"TZ": "Pacific/Kiritimati"}, {"LC_ALL": "C.UTF-8", "TZ": "America/Los_Angeles"}, {}]
)
def test_a_template_that_reads_the_clock_gives_the_same_ids_in_every_zone_and_on_every_day(
    directory: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    (directory / "chat_template.jinja").write_text(CLOCK)
    # An unknown word such as this month's name or this year would be 0.
    assert load_tokenizer(directory).encode("hello", chat=user("hello")) == [5, 0, 7, 3]


def test_the_pinned_date_is_the_same_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a C library in another language and zone would say instead.
    class Elsewhere:
        def strftime(self, form: str) -> str:
            assert not re.search(r"%[aAbBhcxXprPZzs]", form), form
            return form

    monkeypatch.setattr(tokenizer_module, "PINNED", Elsewhere())
    assert pinned_date("%A %a %B %b %p %Z%z %d") == "Friday Fri July Jul PM UTC+0000 %d"


def test_the_pinned_date_is_one_date_in_every_form() -> None:
    for letter, value in _FIXED.items():
        if letter not in "PZzs":
            assert PINNED.strftime(f"%{letter}") == value
    assert PINNED.replace(tzinfo=UTC).timestamp() == int(_FIXED["s"])
    assert pinned_date("%d %b %Y, %H:%M, %j, 100%%") == "26 Jul 2024, 12:00, 208, 100%"


@pytest.mark.real
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('A system message is required') }}",
        "{% for m in messages %}{{ m['content'] ",
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages[7]['content']['x']['y'] }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_fails_in_whichever_way_is_an_error_of_its_own(
    directory: Path, template: str
) -> None:
    (directory / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(directory)
    assert tokenizer.encode("hello") == [3]
    with pytest.raises(ChatTemplateError) as caught:
        tokenizer.encode("hello", chat=user("hello"))
    assert str(caught.value)


@pytest.mark.real
def test_a_tokenizer_tells_its_size_special_ids_and_hashes(directory: Path) -> None:
    first, again = load_tokenizer(directory), load_tokenizer(directory)
    assert first.ordinary_ids == list(range(3, len(WORDS)))
    assert (first.hash, first.chat_template_hash) == (again.hash, again.chat_template_hash)
    (directory / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    changed = load_tokenizer(directory)
    assert changed.hash == first.hash
    assert changed.chat_template_hash != first.chat_template_hash
    assert changed.encode("hello", chat=user("hello")) == [3]
    assert changed.chat_template_date is None


@pytest.mark.real
def test_without_a_template_a_chat_is_plain_text(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(directory)
    assert tokenizer.chat_template_hash is None
    assert tokenizer.encode("hello", chat=user("hello")) == [3]
