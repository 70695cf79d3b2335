from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.architecture import from_gguf
from llenergymeasure.models.formulas import kv_cache_bytes, parameters
from llenergymeasure.models.gguf import BLOCKS, converted, read_gguf
from llenergymeasure.models.resolve import resolve

GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.embedding_length": 8,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 16,
    "llama.context_length": 64,
}
TENSORS = {
    "token_embd.weight": (8, 100),
    "output_norm.weight": (8,),
    "rope_freqs.weight": (1,),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (8, 4),
    "blk.0.attn_v.weight": (8, 4),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_norm.weight": (8,),
    "blk.0.ffn_gate.weight": (8, 16),
    "blk.0.ffn_up.weight": (8, 16),
    "blk.0.ffn_down.weight": (16, 8),
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_bytes(values: dict[str, object] = GGUF, tensors: dict[str, tuple[int, ...]] = TENSORS) -> bytes:
    """A version 3 file of fp32 zeros, with an array of strings such as tokenizers keep."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values) + 2)
    out += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    out += text("scores") + struct.pack("<IIQ2f", 9, 6, 2, 1.0, 2.0)
    for key, value in values.items():
        kind = struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        out += text(key) + kind
    offset = 0
    for name, dims in tensors.items():
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
        elements = 1
        for dim in dims:
            elements *= dim
        offset += 4 * elements
    out += b"\0" * (-len(out) % 32)
    return out + b"\0" * offset


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


def test_a_header_is_read_past_its_arrays(write: Callable[[bytes], Path]) -> None:
    header = read_gguf(write(gguf_bytes()))
    assert header.metadata == {**GGUF, "scores": [1.0, 2.0]}
    assert header.tensors == TENSORS


def test_a_gguf_file_resolves_to_its_shape(write: Callable[[bytes], Path]) -> None:
    path = write(gguf_bytes())
    resolved = resolve(str(path))
    assert (resolved.kind, resolved.path, resolved.reason) == ("gguf", path, None)
    assert resolved.architecture is not None
    assert resolved.architecture.vocab == 100


def test_a_gguf_of_another_kind_of_model_resolves_with_the_reason(write: Callable[[bytes], Path]) -> None:
    resolved = resolve(str(write(gguf_bytes({"general.architecture": "bert"}))))
    assert resolved.architecture is None
    assert resolved.reason is not None
    assert "'num_hidden_layers' is missing" in resolved.reason


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_file_cut_off_anywhere_is_refused_by_name(
    write: Callable[[bytes], Path], data: st.DataObject
) -> None:
    whole = gguf_bytes()
    path = write(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(PreFlightError, match=r"model\.gguf"):
        read_gguf(path)


@given(st.integers(4, 900), st.binary(min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
def test_a_damaged_header_raises_nothing_else(write: Callable[[bytes], Path], at: int, damage: bytes) -> None:
    whole = gguf_bytes()
    path = write(whole[:at] + damage + whole[at + len(damage) :])
    with suppress(PreFlightError):
        assert resolve(str(path)).kind == "gguf"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "does not begin with GGUF"),
        (b"", "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
    ],
)
def test_what_is_no_gguf_is_refused(write: Callable[[bytes], Path], content: bytes, message: str) -> None:
    with pytest.raises(PreFlightError, match=message):
        resolve(str(write(content)))


def test_block_sizes_are_those_of_the_format() -> None:
    gguf = pytest.importorskip("gguf")
    sizes = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in BLOCKS} == BLOCKS


def test_a_cache_that_cannot_be_written_is_explained(
    write: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLEM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(PreFlightError, match="can't convert") as caught:
        converted(write(gguf_bytes()))
    assert caught.value.hint is not None
    assert "LLEM_CACHE_DIR" in caught.value.hint


def test_a_gguf_header_gives_the_shape() -> None:
    shape = from_gguf(GGUF, TENSORS, name="model", source="test")
    assert [(one.heads, one.kv_heads, one.key_dim) for one in shape.attentions] == [(4, 2, 2)]
    assert (shape.vocab, shape.tied, shape.layers[0].gated) == (100, True, True)
    # all tensors but the rotary table
    assert parameters(shape) == 100 * 8 + 8 + 192 + 384 + 2 * 8
    untied = from_gguf(GGUF, {**TENSORS, "output.weight": (8, 100)}, name="model", source="test")
    assert untied == replace(shape, tied=False)


def test_layers_of_a_gguf_may_differ_in_their_heads_and_widths() -> None:
    second = {
        name.replace("blk.0", "blk.1"): dims for name, dims in TENSORS.items() if name.startswith("blk.0")
    } | {"blk.1.attn_k.weight": (8, 2), "blk.1.attn_v.weight": (8, 2)}
    values = {**GGUF, "llama.block_count": 2, "llama.attention.head_count_kv": [2, 1]}
    shape = from_gguf(values, {**TENSORS, **second}, name="model", source="test")
    assert [one.kv_heads for one in shape.attentions] == [2, 1]
    assert kv_cache_bytes(shape, batch=1, tokens=1, bytes_per_element=2) == (2 + 1) * 2 * 2 * 2


def test_a_gguf_with_a_tensor_whose_part_is_not_known_has_no_flops_but_its_bytes_and_context(
    write: Callable[[bytes], Path],
) -> None:
    resolved = resolve(str(write(gguf_bytes(tensors={**TENSORS, "blk.0.extra.weight": (8, 8)}))))
    assert resolved.architecture is None
    assert resolved.reason is not None
    assert "'extra.weight'" in resolved.reason
    assert resolved.context == 64
    assert resolved.stored is not None
    assert resolved.stored.bytes == 4 * (100 * 8 + 8 + 1 + 192 + 384 + 2 * 8 + 64)
    assert resolved.cached_at_most == 2 * 2 * 2


def split(folder: Path) -> list[Path]:
    """A model in two files: the table, and the rest."""
    halves = [dict(list(TENSORS.items())[:1]), dict(list(TENSORS.items())[1:])]
    files = [folder / f"model-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, (file, tensors) in enumerate(zip(files, halves, strict=True)):
        parts: dict[str, object] = {"split.no": number, "split.count": 2}
        file.write_bytes(gguf_bytes({**GGUF, **parts}, tensors))
    return files


def test_a_split_gguf_is_read_whole_from_its_first_part(tmp_path: Path) -> None:
    first, second = split(tmp_path)
    resolved = resolve(str(first))
    assert resolved.architecture == from_gguf(
        GGUF, TENSORS, name=str(first), source=f"header of {first.name}"
    )
    with pytest.raises(PreFlightError, match="is part 2 of 2") as caught:
        resolve(str(second))
    assert caught.value.hint == f"name the first part: {first}"
    second.unlink()
    with pytest.raises(PreFlightError, match=second.name):
        resolve(str(first))


@pytest.mark.parametrize(
    ("start", "named"), [(struct.pack(">I", 3), "big-endian"), (struct.pack("<I", 1), "version 1")]
)
def test_a_gguf_of_another_kind_is_named(write: Callable[[bytes], Path], start: bytes, named: str) -> None:
    whole = gguf_bytes()
    with pytest.raises(PreFlightError, match=named):
        resolve(str(write(whole[:4] + start + whole[8:])))


def test_a_gguf_without_embeddings_or_fields_says_so() -> None:
    with pytest.raises(ValueError, match="no token embedding"):
        from_gguf(GGUF, {}, name="model", source="test")
    with pytest.raises(ValueError, match=r"'num_hidden_layers' is missing"):
        from_gguf({**GGUF, "llama.block_count": None}, TENSORS, name="model", source="test")
