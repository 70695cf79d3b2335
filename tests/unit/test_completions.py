"""Requests of a running load are columns that say just what the objects said, in memory and stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llenergymeasure.records import Completion, Completions, Generation, Verdict

counts = st.integers(0, 2**31 - 1)
times = st.integers(0, 2**62)
one_completion = st.builds(
    Completion,
    index=counts,
    walk=counts,
    batch=counts,
    prompt_tokens=counts,
    output_tokens=counts,
    t_scheduled_ns=times,
    t_sent_ns=times,
    t_first_ns=st.none() | times,
    t_end_ns=times,
    finish=st.sampled_from(["eos", "length", "error"]),
    local_prompt_tokens=st.none() | counts,
    local_output_tokens=st.none() | counts,
    verdict=st.none() | st.builds(Verdict, st.text(), st.booleans(), st.none() | st.text()),
)
GENERATION = TypeAdapter(Generation)


@given(st.lists(one_completion))
def test_what_goes_in_comes_out(done: list[Completion]) -> None:
    columns = Completions.of(iter(done))
    assert len(columns) == len(done)
    assert list(columns) == done
    assert columns == done
    if done:
        assert columns[-1] == done[-1]
        assert columns[1:] == done[1:]
    generation = Generation(columns)
    for again in (
        GENERATION.validate_json(GENERATION.dump_json(generation)),
        GENERATION.validate_python(json.loads(GENERATION.dump_json(generation))),
    ):
        assert isinstance(again.completions, Completions)
        assert list(again.completions) == done
    # those of a walk, and of versions that had no columns, are objects
    assert GENERATION.validate_json(GENERATION.dump_json(Generation(tuple(done)))) == Generation(tuple(done))


def made(number: int) -> Completion:
    sent_ns = 10**15 + number * 5_000_000 + number * 7919 % 300_000
    first_ns = sent_ns + 20_000_000 + number * 104_729 % 900_000
    end_ns = first_ns + 160_000_000 + number * 1_299_709 % 5_000_000
    due_ns = 10**15 + number * 5_000_000
    return Completion(number % 50, number // 50, 0, 128, 16, due_ns, sent_ns, first_ns, end_ns, "length")


def test_a_request_takes_few_bytes() -> None:
    columns = Completions.of(map(made, range(20_000)))
    assert len(GENERATION.dump_json(Generation(columns))) < 30 * 20_000
    assert columns._rows.nbytes < 100 * 20_000


def test_damage_is_refused() -> None:
    whole = json.loads(GENERATION.dump_json(Generation(Completions.of(map(made, range(10))))))
    columns = whole["completions"]
    for broken in (
        {name: one for name, one in columns.items() if name != "walk"},
        columns | {"walk": columns["walk"][:8]},
        columns | {"walk": Completions.of([made(1)]).encoded()["walk"]},
        columns | {"finish": columns["t_end_ns"]},
        columns | {"walk": None},
        columns | {"verdicts": [[0]]},
    ):
        with pytest.raises(ValidationError):
            GENERATION.validate_python({**whole, "completions": broken})
