from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer


@given(st.text(), st.integers(1, 300))
def test_a_byte_is_a_token_that_lies_in_the_vocabulary(text: str, vocab: int) -> None:
    tokenizer: Tokenizer = ByteTokenizer(vocab)
    ids = tokenizer.encode(text, chat=False)
    assert len(ids) == len(text.encode())
    assert all(0 <= token < vocab for token in ids)
    assert tokenizer.encode(text, chat=True) == ids


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
    assert tokenizer.encode(text, chat=False) == [3, 4]
    assert tokenizer.encode(text, chat=True) == [1, 8, 9, 5, 6, 7, 3, 4, 2]


@pytest.mark.real
def test_a_tokenizer_tells_its_size_special_ids_and_hashes(directory: Path) -> None:
    first, again = load_tokenizer(directory), load_tokenizer(directory)
    assert first.vocab_size == len(WORDS)
    assert first.special_ids == {0, 1, 2}
    assert (first.hash, first.chat_template_hash) == (again.hash, again.chat_template_hash)
    (directory / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    changed = load_tokenizer(directory)
    assert changed.hash == first.hash
    assert changed.chat_template_hash != first.chat_template_hash
    assert changed.encode("hello", chat=True) == [3]


@pytest.mark.real
def test_without_a_template_a_chat_is_plain_text(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(directory)
    assert tokenizer.chat_template_hash is None
    assert tokenizer.encode("hello", chat=True) == [3]
