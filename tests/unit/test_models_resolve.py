from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.resolve import fetch_shape, require_available, resolve, weights_path
from llenergymeasure.models.shapes import SHAPES, hf_config

CONFIG = json.dumps(hf_config(SHAPES["smollm2-135m"]))


def safetensors_bytes(payload: int = 64) -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": "F32", "shape": [payload // 4], "data_offsets": [0, payload]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * payload


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(CONFIG)
    (path / "model.safetensors").write_bytes(safetensors_bytes())
    return path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache


def cache_model(cache: Path, hub_id: str, *, weights: bytes | None) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    (snapshot / "config.json").write_text(CONFIG)
    if weights is not None:
        (snapshot / "model.safetensors").write_bytes(weights)
    return snapshot


def refusal(model: str | Path, **options: str) -> PreFlightError:
    with pytest.raises(PreFlightError) as caught:
        resolve(str(model), **options)
    return caught.value


# directories


def test_a_directory_gives_its_shape_and_place(directory: Path) -> None:
    resolved = resolve(str(directory))
    assert (resolved.kind, resolved.path, resolved.revision) == ("directory", directory, None)
    assert resolved.architecture is not None
    assert resolved.architecture.layers[0].count == 30
    assert resolved.architecture.source == str(directory / "config.json")
    assert weights_path(resolved) == directory
    require_available(resolved)


def test_a_directory_of_an_unknown_family_has_a_reason(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "unheard-of", "n_ctx": 99}')
    resolved = resolve(str(directory))
    assert resolved.architecture is None
    assert resolved.reason is not None
    assert "'unheard-of' is not known" in resolved.reason
    assert resolved.context == 99
    assert resolved.stored is not None
    assert resolved.stored.numbers is not None


def test_a_directory_without_weights_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    assert "holds no weights" in refusal(directory).message


def test_a_directory_with_a_gguf_only_says_to_name_the_file(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "m.gguf").touch()
    assert str(directory / "m.gguf") in str(refusal(directory).hint)
    (directory / "config.json").unlink()
    error = refusal(directory)
    assert "no config.json" in error.message
    assert str(directory / "m.gguf") in str(error.hint)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x01", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused_by_name(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    assert "config.json" in refusal(directory).message


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_weights_cut_off_anywhere_are_refused_by_name(directory: Path, data: st.DataObject) -> None:
    whole = safetensors_bytes()
    (directory / "model.safetensors").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert str(directory / "model.safetensors") in refusal(directory).message


@given(st.integers(0, 140), st.binary(min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_a_damaged_weights_header_raises_nothing_else(directory: Path, at: int, damage: bytes) -> None:
    whole = safetensors_bytes()
    (directory / "model.safetensors").write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    with suppress(PreFlightError):
        assert resolve(str(directory)).path == directory


def test_a_git_lfs_pointer_is_recognised(directory: Path) -> None:
    (directory / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    )
    error = refusal(directory)
    assert "Git LFS pointer" in error.message
    assert "git lfs pull" in str(error.hint)


def test_a_cut_off_bin_file_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x" * 1000)
    assert resolve(str(directory)).path == directory
    path.write_bytes(path.read_bytes()[:-200])
    assert str(path) in refusal(directory).message


def shard(directory: Path, names: list[str], there: list[str]) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in there:
        (directory / name).write_bytes(safetensors_bytes())


SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def test_missing_shards_are_named(directory: Path) -> None:
    shard(directory, SHARDS, SHARDS[:1])
    message = refusal(directory).message
    assert "lacks 2 of 3 shards" in message
    assert SHARDS[2] in message


def test_every_shard_is_checked(directory: Path) -> None:
    shard(directory, SHARDS, SHARDS)
    assert resolve(str(directory)).path == directory
    (directory / SHARDS[1]).write_bytes(safetensors_bytes()[:-1])
    assert SHARDS[1] in refusal(directory).message


def test_shards_without_their_index_are_refused(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / SHARDS[0])
    assert "1 of 3 shards and no index" in refusal(directory).message


def test_an_index_leads_out_of_no_directory(directory: Path) -> None:
    shard(directory, ["../../secret.safetensors"], [])
    assert "outside its directory" in refusal(directory).message


# names


@pytest.mark.parametrize("name", ["/no/such", "./no-such", "~/no-such-model", "../../no-such", "no.gguf"])
def test_a_path_that_is_not_there_is_no_hub_id(name: str) -> None:
    assert "no such file or directory" in refusal(name).message


@pytest.mark.parametrize(
    "name", ["a b", "a/b/c", "org/../x", "-x", "a--b", "org/", "x" * 97, "x" * 1000, "~nobody-here", "a\\b"]
)
def test_what_is_no_name_at_all_is_refused(name: str) -> None:
    assert repr(name)[:20] in refusal(name).message


def test_a_near_miss_names_what_is_known() -> None:
    error = refusal("smollm2 135m")
    assert "did you mean" in str(error.hint)
    assert "smollm2-135m" in str(error.hint)


def test_a_random_shape_comes_by_name_or_hub_id() -> None:
    resolved = resolve("random:Llama-3.2-1B")
    assert (resolved.kind, resolved.path, resolved.architecture) == ("random", None, SHAPES["llama-3.2-1b"])
    assert weights_path(resolved) is None
    assert resolve("random:meta-llama/Llama-3.1-8B").architecture is SHAPES["llama-3.1-8b"]
    require_available(resolved)


def test_a_random_shape_comes_from_a_config_without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    resolved = resolve(f"random:{directory}")
    assert (resolved.kind, resolved.path) == ("random", directory)
    assert resolved.architecture is not None
    assert resolved.architecture.hidden == 576


@pytest.mark.parametrize("name", ["random:", "random:../../etc-nope"])
def test_an_unknown_shape_lists_those_known(name: str) -> None:
    hint = str(refusal(name).hint)
    assert "llama-3.2-1b" in hint
    assert "mixtral-8x7b" in hint


def test_an_unknown_shape_that_is_like_others_names_these_and_where_all_are() -> None:
    hint = str(refusal("random:lama-3.2-1b").hint)
    assert "did you mean llama-3.2-1b" in hint
    assert "docs/reference/models.md" in hint
    assert "mixtral-8x7b" not in hint


def test_a_page_of_the_hub_gets_the_shape_by_its_name() -> None:
    refused = refusal("random:https://huggingface.co/Qwen/Qwen3-8B")
    assert refused.hint == "--model random:Qwen/Qwen3-8B"
    assert resolve("random:Qwen/Qwen3-8B").architecture is SHAPES["qwen3-8b"]


# the hub


def test_a_cached_model_is_found_with_its_commit(hub_cache: Path) -> None:
    snapshot = cache_model(hub_cache, "some-org/model", weights=safetensors_bytes())
    resolved = resolve("some-org/model")
    assert (resolved.kind, resolved.path, resolved.revision) == ("hub", snapshot, "abc123")
    assert resolved.architecture is not None
    assert weights_path(resolved) == snapshot
    require_available(resolved)
    assert resolve("some-org/model", revision="abc123").path == snapshot
    assert resolve("some-org/model", revision="v2").path is None


@pytest.mark.usefixtures("hub_cache")
def test_a_well_known_model_has_a_shape_without_network() -> None:
    resolved = resolve("gpt2")
    assert (resolved.kind, resolved.path, resolved.architecture) == ("hub", None, SHAPES["gpt2"])


@pytest.mark.usefixtures("hub_cache")
def test_offline_an_uncached_model_says_what_to_do() -> None:
    resolved = resolve("some-org/other")
    assert resolved.reason == "some-org/other is not in the hub cache"
    assert fetch_shape(resolved) == resolved
    with pytest.raises(PreFlightError, match=r"offline: 'some-org/other' is not in the hub cache") as caught:
        require_available(resolved)
    assert "HF_HUB_OFFLINE" in caught.value.message
    assert "hf download some-org/other" in str(caught.value.hint)


def test_a_half_fetched_model_is_not_taken_for_whole(hub_cache: Path) -> None:
    cache_model(hub_cache, "some-org/model", weights=safetensors_bytes()[:-10])
    resolved = resolve("some-org/model")
    assert resolved.path is None
    assert resolved.architecture is not None
    with pytest.raises(PreFlightError, match=r"not whole in the hub cache .*model\.safetensors"):
        require_available(resolved)


@pytest.mark.parametrize("revision", ["../../../etc", "/etc", "a b", ""])
@pytest.mark.usefixtures("hub_cache")
def test_a_revision_leads_out_of_no_folder(revision: str) -> None:
    if not revision:
        assert resolve("gpt2", revision=revision).path is None
    else:
        assert "not a revision" in refusal("gpt2", revision=revision).message


def test_a_poisoned_reference_leads_out_of_no_folder(hub_cache: Path, tmp_path: Path) -> None:
    cache_model(hub_cache, "some-org/model", weights=safetensors_bytes())
    (hub_cache / "models--some-org--model" / "refs" / "main").write_text(str(tmp_path))
    assert resolve("some-org/model").path is None


def test_a_folder_that_is_called_like_a_model_does_not_hide_it(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not hub_cache.exists()
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("gpt2").kind == "hub"
    (tmp_path / "gpt2" / "config.json").write_text(CONFIG)
    assert "holds no weights" in refusal("gpt2").message


def test_resolving_loads_nothing_heavy() -> None:
    code = (
        "import sys; from llenergymeasure.models.resolve import resolve;"
        "resolve('smollm2-135m'); resolve('gpt2');"
        "print([m for m in ('torch','transformers','numpy','pyarrow','huggingface_hub','gguf','llama_cpp')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
