"""Does every engine load, sample by the seed, and let go of what it took?"""

from __future__ import annotations

import gc
import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydantic import JsonValue
from tests.backends.engines import MODEL, Engine, asked, configured

from llenergymeasure.backends import load_backend
from llenergymeasure.exceptions import LLEMError
from llenergymeasure.models.resolve import resolve
from llenergymeasure.records import Generation, Request

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


class Nobody:
    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Load:
    """Two walks of one load, and what this process was like after it was let go."""

    walks: tuple[Generation, Generation]
    children: int
    threads: int
    resident_bytes: int


def load(engine: Engine, model: str, **changes: JsonValue) -> Load:
    requests = asked([5, 30, 12, 7], 6, exact=False)
    with load_backend(engine.name).open(configured(engine, model, **changes)) as session:
        walks = session.generate(requests, Nobody()), session.generate(requests, Nobody())
    gc.collect()
    this = psutil.Process()
    return Load(walks, len(this.children(recursive=True)), threading.active_count(), this.memory_info().rss)


@pytest.fixture(scope="module")
def loads(engine: Engine, model: str) -> list[Load]:
    """Sampled answers, from three loads of which the last has another seed."""
    return [load(engine, model, decoder={"temperature": 1.0}, random_seed=seed) for seed in (1, 1, 2)]


def work(generation: Generation) -> object:
    """The token ids where the engine gives them, else how many there were."""
    return generation.output_ids or [done.output_tokens for done in generation.completions]


def test_a_sampled_walk_is_the_same_again_in_this_load_and_in_the_next(loads: list[Load]) -> None:
    first = work(loads[0].walks[0])
    assert work(loads[0].walks[1]) == first
    assert [work(walk) for walk in loads[1].walks] == [first, first]


def test_another_seed_samples_another_walk(loads: list[Load]) -> None:
    assert work(loads[2].walks[0]) != work(loads[0].walks[0])


def test_leaving_the_context_ends_its_processes_and_threads_and_frees_its_memory(
    engine: Engine, loads: list[Load]
) -> None:
    first, *later = loads
    # What a library starts once and keeps, such as a resource tracker or a pool of threads, is there already.
    assert {one.children for one in later} == {first.children}
    assert max(one.threads for one in later) <= first.threads
    if engine.weights_bytes is not None:
        assert max(one.resident_bytes for one in later) < first.resident_bytes + engine.weights_bytes[0] / 2


def test_weights_that_are_not_all_there_are_one_clear_error(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    if engine.takes == "nothing":
        pytest.skip("an engine without a model has no weights")
    broken = incomplete(engine, model, tmp_path)
    before = len(psutil.Process().children(recursive=True))
    with pytest.raises(LLEMError) as refused, load_backend(engine.name).open(configured(engine, str(broken))):
        pass
    assert broken.name in refused.value.message
    assert len(psutil.Process().children(recursive=True)) == before


def incomplete(engine: Engine, model: str, folder: Path) -> Path:
    """The model with a layer more than there are weights for, or as a file that was cut off."""
    if engine.takes == "gguf":
        whole = resolve(MODEL).path
        assert whole is not None
        cut = folder / "incomplete.gguf"
        with whole.open("rb") as source:
            cut.write_bytes(source.read(whole.stat().st_size // 2))
        return cut
    copy = folder / "incomplete"
    shutil.copytree(model, copy, symlinks=True)
    shape = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps(shape | {"num_hidden_layers": shape["num_hidden_layers"] + 1})
    )
    return copy
