"""Which points a sweep consists of, and what in it has no meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from llenergymeasure.config.axes import axes, points, size, values
from llenergymeasure.config.study import holds, study_from
from llenergymeasure.exceptions import ConfigError


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ([1, 4, 8], [1, 4, 8]),
        ("1-64*2", [1, 2, 4, 8, 16, 32, 64]),
        ("1-50*3", [1, 3, 9, 27]),
        ("2-5", [2, 3, 4, 5]),
        ("8-32+8", [8, 16, 24, 32]),
        ({"min": 1, "max": 9, "num": 3}, [1, 5, 9]),
        ({"min": 0.0, "max": 1.0, "num": 5}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"min": 0.2, "max": 1.0, "num": 3}, [0.2, 0.6, 1.0]),
        ({"min": 3, "max": 3, "num": 1}, [3]),
        ({"pow2": [1, 64]}, [1, 2, 4, 8, 16, 32, 64]),
        ({"pow2": [3, 20]}, [4, 8, 16]),
    ],
)
def test_the_forms_of_an_axis(axis: JsonValue, expected: list[JsonValue]) -> None:
    assert values(axis, where="here") == expected


@pytest.mark.parametrize(
    "axis",
    [
        [],
        "1,4,8",
        "8-1",
        "1-8*1",
        "0-8*2",
        "1-8+0",
        "1-99999999999",
        4,
        None,
        {"min": 1, "max": 9},
        {"min": 9, "max": 1, "num": 3},
        {"min": 1, "max": 9, "num": 0},
        {"min": True, "max": 9, "num": 3},
        {"pow2": [1]},
        {"pow2": [0, 4]},
        {"pow2": [5, 7]},
        {"pow2": "1-4"},
    ],
)
def test_an_axis_of_another_form_is_refused_by_name(axis: JsonValue) -> None:
    with pytest.raises(ConfigError, match=r"sweep: n\b"):
        axes({"n": axis}, where="sweep")


def test_the_grid_is_every_combination_with_the_last_axis_fastest() -> None:
    found = axes({"precision": ["bf16", "fp32"], "pytorch": {"batch_size": [1, 4]}}, where="sweep")
    assert list(points(found)) == [
        {"precision": "bf16", "pytorch.batch_size": 1},
        {"precision": "bf16", "pytorch.batch_size": 4},
        {"precision": "fp32", "pytorch.batch_size": 1},
        {"precision": "fp32", "pytorch.batch_size": 4},
    ]


def test_zipped_keys_change_together_and_groups_set_several_keys() -> None:
    found = axes(
        {
            "zip": {"n": [8, 16], "max_output_tokens": "32-64*2"},
            "groups": {"engine": [{"backend": "vllm"}, {"backend": "pytorch", "pytorch": {"batch_size": 4}}]},
        },
        where="sweep",
    )
    assert list(points(found)) == [
        {"n": 8, "max_output_tokens": 32, "backend": "vllm"},
        {"n": 8, "max_output_tokens": 32, "backend": "pytorch", "pytorch.batch_size": 4},
        {"n": 16, "max_output_tokens": 64, "backend": "vllm"},
        {"n": 16, "max_output_tokens": 64, "backend": "pytorch", "pytorch.batch_size": 4},
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_size_of_a_grid_is_known_without_making_it(lengths: list[int]) -> None:
    keys = ("n", "max_input_tokens", "max_output_tokens", "random_seed")
    found = axes(
        {key: list(range(1, most + 1)) for key, most in zip(keys, lengths, strict=False)}, where="sweep"
    )
    made = list(points(found))
    assert size(found) == len(made) == len({tuple(sorted(each.items())) for each in made})


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({}, "empty"),
        ({"precison": ["bf16"]}, "unknown key precison"),
        ({"pytorch": {"batchsize": [1]}}, r"unknown key pytorch\.batchsize"),
        ({"batch_size": [1, 2]}, "follows from other keys"),
        ({"repeats.count": [1, 2]}, "can't be swept"),
        ({"output_dir": ["a", "b"]}, "can't be swept"),
        ({"zip": {"n": [1, 2], "random_seed": [1]}}, "equally many"),
        ({"n": [1], "zip": {"n": [1], "random_seed": [1]}}, "both set n"),
        ({"groups": {"engine": []}}, r"groups\.engine"),
        ({"groups": []}, "groups"),
    ],
)
def test_what_has_no_meaning_in_a_sweep_is_named(sweep: dict[str, JsonValue], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        axes(sweep, where="sweep")


def test_a_study_holds_the_grid_and_the_listed_experiments() -> None:
    study = study_from(
        {
            "model": "gpt2",
            "sweep": {"n": [1, 2]},
            "experiments": [{"name": "large", "n": 64, "pytorch": {"batch_size": 8}}],
            "exclude": {"n": 2, "precision": ["bf16", "fp16"]},
        }
    )
    assert study.base == {"model": "gpt2"}
    assert [(one.settings, one.swept, one.name) for one in study.points()] == [
        ({"n": 1}, True, None),
        ({"n": 2}, True, None),
        ({"n": 64, "pytorch.batch_size": 8}, False, "large"),
    ]
    (condition,) = study.exclude
    assert holds(condition, {"n": 2, "precision": "fp16", "model": "gpt2"})
    assert not holds(condition, {"n": 2, "precision": "fp32"})
    assert not holds(condition, {"precision": "fp16"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"experiments": []}, "no experiment"),
        ({"sweep": None}, "sweep is not a mapping"),
        ({"sweep": {"n": "1-1000000"}}, "1,000,000 points"),
        ({"sweep": {"n": [1]}, "execution": {"oder": "shuffled"}}, "execution.oder"),
        ({"sweep": {"n": [1]}, "execution": {"order": "random"}}, r"execution\.order"),
        (
            {"sweep": {"n": [1]}, "execution": {"slurm": {"partion": "x"}}},
            r"unknown key execution\.slurm\.partion",
        ),
        ({"search": {"over": "load.rate", "min": 1, "max": 2, "shar": 1}}, r"unknown key search\.shar"),
        ({"search": {"over": "load.rate", "max": 2}}, r"search\.min is missing"),
        ({"sweep": {"n": [1]}, "execution": {"parallel": "per-gpu", "executor": "ray"}}, "parallel"),
        ({"sweep": {"n": [1]}, "exclude": [{"nn": 1}]}, "unknown key nn"),
        ({"sweep": {"n": [1]}, "when": {"n": 3}}, "when"),
        ({"sweep": {"n": [1]}, "experiments": {"n": 1}}, "not a list"),
        ({"sweep": {"n": [1]}, "experiments": [3]}, "number 1"),
        ({"sweep": {"n": [1]}, "base": 3}, "base"),
    ],
)
def test_what_has_no_meaning_in_a_study_is_named(content: dict[str, JsonValue], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        study_from(content)


def test_more_points_than_allowed_can_be_asked_for() -> None:
    content: dict[str, JsonValue] = {"sweep": {"n": "1-20000"}}
    with pytest.raises(ConfigError, match="20,000 points"):
        study_from(content)
    assert study_from({**content, "execution": {"max_points": 20_000}}).size == 20_000


def test_an_unknown_key_of_a_section_that_is_a_choice_is_found() -> None:
    with pytest.raises(ConfigError, match=r"unknown key passes\.secnds"):
        axes({"passes": [{"secnds": 1}, {"seconds": 2}]}, where="sweep")
    (axis,) = axes({"passes": [{"seconds": 1}, {"seconds": 2}]}, where="sweep")
    assert axis.choices == ({"passes.seconds": 1}, {"passes.seconds": 2})


def test_two_listed_experiments_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="number 2: another experiment is named 'a'"):
        study_from({"model": "any", "experiments": [{"name": "a", "n": 1}, {"name": "a", "n": 2}]})
