"""Conversations run turn by turn: every turn begins as the one before it, and none is cut in its middle."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from caches import own_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.records import Request
from llenergymeasure.workload.formats import OddRecordError, Prompt, read_record
from llenergymeasure.workload.prepared import build_requests, prepared
from llenergymeasure.workload.prompts import load_prompts
from llenergymeasure.workload.tokenizer import ByteTokenizer

SHAREGPT = {
    "id": "s",
    "conversations": [
        {"from": "system", "value": "sys"},
        {"from": "human", "value": "q1"},
        {"from": "gpt", "value": "a1"},
        {"from": "human", "value": "q2"},
        {"from": "gpt", "value": "a2"},
    ],
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversation(name: str, *asked: str) -> dict[str, object]:
    turns = [one for text in asked for one in (turn("user", text), turn("assistant", f"so {text}"))]
    return {"id": name, "messages": turns}


def config(path: Path, **fields: Any) -> ExperimentConfig:
    dataset = {"name": str(path), "turns": "all", "chat_template": "off", **fields.pop("dataset", {})}
    return ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "dataset": dataset, **fields}
    )


def lines(folder: Path, *records: object) -> Path:
    path = folder / "talk.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def prompts(record: object) -> tuple[Prompt, ...]:
    return read_record(record, 1, every_turn=True)[1]


def texts(requests: tuple[Request, ...]) -> list[str]:
    return [bytes(one.prompt).decode() for one in requests]


class TestRecords:
    def test_each_answer_that_is_awaited_is_a_prompt_with_all_that_came_before(self) -> None:
        first, second = prompts(SHAREGPT)
        assert (first.id, first.turn, first.text) == ("s.1", 1, "sys\n\nq1")
        assert (second.id, second.turn, second.text) == ("s.2", 2, "sys\n\nq1\n\na1\n\nq2")
        assert second.turns == (("system", "sys"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"))
        assert read_record(SHAREGPT, 1) == ("ShareGPT", (Prompt("s", first.text, turns=first.turns),))

    def test_two_turns_before_an_answer_are_one_request(self) -> None:
        record = [turn("user", "a"), turn("user", "b"), turn("assistant", "c"), turn("tool", "d")]
        assert [one.text for one in prompts(record)] == ["a\n\nb", "a\n\nb\n\nc\n\nd"]

    def test_an_answer_in_two_parts_is_awaited_once(self) -> None:
        record = [turn("user", "a"), turn("assistant", "b"), turn("assistant", "c"), turn("user", "d")]
        assert [one.text for one in prompts(record)] == ["a", "a\n\nb\n\nc\n\nd"]

    def test_aiperf_s_turns_have_no_answers_between_them(self) -> None:
        record = {"session_id": "x", "turns": [{"text": "a", "delay": 5}, "b", {"texts": ["c", "d"]}]}
        found = prompts(record)
        assert [one.text for one in found] == ["a", "a\n\nb", "a\n\nb\n\nc\n\nd"]
        assert found[1].turns == (("user", "a"), ("user", "b"))

    @pytest.mark.parametrize("record", ["alone", {"prompt": "alone"}, [turn("user", "alone")]])
    def test_a_single_question_is_what_it_is_without(self, record: object) -> None:
        assert prompts(record) == read_record(record, 1)[1] == (Prompt("1", "alone"),)

    @pytest.mark.parametrize(
        "record",
        [
            [turn("user", "a"), turn("assistant", "b"), turn("user", " ")],
            [turn("assistant", "b"), turn("user", "a")],
            [turn("user", "a"), turn("assistant", "\ud800"), turn("user", "b")],
            {"turns": []},
            {"turns": [{"text": "a"}, {"text": None}]},
        ],
    )
    def test_a_conversation_with_a_turn_that_asks_nothing_is_odd(self, record: object) -> None:
        with pytest.raises(OddRecordError):
            prompts(record)


class TestOrder:
    TALKS = tuple(conversation(name, *(f"{name}{k}" for k in range(3))) for name in "abcdefgh")

    @given(n=st.integers(1, 24), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_conversations_stay_whole_in_the_shuffle_but_for_the_last(
        self, tmp_path_factory: pytest.TempPathFactory, n: int, seed: int
    ) -> None:
        path = lines(tmp_path_factory.mktemp("talks"), *self.TALKS)
        dataset = load_prompts(config(path, n=n, random_seed=seed))
        names = [one.id.split(".")[0] for one in dataset.prompts]
        assert [one.turn for one in dataset.prompts] == [k % 3 + 1 for k in range(n)]
        assert all(name == names[k - k % 3] for k, name in enumerate(names))
        assert (dataset.facts.prompts, dataset.facts.conversations) == (n, -(-n // 3))

    def test_their_order_comes_from_the_seed(self, tmp_path: Path) -> None:
        path = lines(tmp_path, *self.TALKS)
        orders = [load_prompts(config(path, n=24, random_seed=seed)).prompts for seed in (1, 1, 2)]
        assert orders[0] == orders[1] != orders[2]
        with pytest.raises(ConfigError, match="24 prompts, and n is 25"):
            load_prompts(config(path, n=25))

    def test_without_it_a_record_is_one_prompt_and_the_order_is_as_ever(self, tmp_path: Path) -> None:
        path = lines(tmp_path, *"abcde")
        alone = load_prompts(config(path, n=5, dataset={"turns": "one"}))
        assert [one.text for one in alone.prompts] == ["d", "b", "c", "e", "a"]
        assert alone.facts.conversations is None
        assert load_prompts(config(path, n=5)).prompts == alone.prompts


class TestRequests:
    def made(self, path: Path, most: int, n: int) -> Any:
        return prepared(config(path, n=n, max_input_tokens=most, max_output_tokens=1))

    def test_each_turn_begins_as_the_one_before_it(self, tmp_path: Path) -> None:
        work = self.made(lines(tmp_path, conversation("a", "x", "yy", "z")), 100, 3)
        assert [one.turn for one in work.workload.requests] == [1, 2, 3]
        assert texts(work.workload.requests)[2] == "x\n\nso x\n\nyy\n\nso yy\n\nz"
        for one, later in pairwise(work.workload.requests):
            assert later.prompt[: len(one.prompt)] == one.prompt

    def test_a_turn_that_would_be_cut_ends_its_conversation(self, tmp_path: Path) -> None:
        # 1, 10 and 19 tokens; 30; then one of 12 that is cut, as prompts are.
        path = lines(tmp_path, conversation("a", "x", "y", "z"), conversation("b", "v" * 30, "w"))
        work = self.made(path, 12, 5)
        kept = {one.id: text for one, text in zip(work.prompts, texts(work.workload.requests), strict=True)}
        assert kept == {"a.1": "x", "a.2": "x\n\nso x\n\ny", "b.1": "v" * 12}
        assert [one.index for one in work.workload.requests] == [0, 1, 2]
        assert work.workload.cut == 1
        assert (work.dataset.prompts, work.dataset.conversations, work.dataset.left_out) == (3, 2, 2)

    def test_what_follows_a_turn_that_is_left_out_is_left_out(self) -> None:
        # As of a template that takes reasoning out of earlier turns.
        talk = [Prompt(f"a.{k}", text, turn=k) for k, text in enumerate(("xx", "x" * 9, "xxx"), start=1)]
        asked = ExperimentConfig.model_validate(
            {"model": "any", "backend": "simulated", "n": 4, "max_input_tokens": 8}
        )
        workload = build_requests(asked, [*talk, Prompt("b", "y")], ByteTokenizer(256))
        assert workload.places == (0, 3)

    def test_they_come_from_the_cache_as_they_went_into_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLEM_CACHE_DIR", str(own_cache(tmp_path / "cache")))
        path = lines(tmp_path, conversation("a", "x " * 9, "y " * 9, "z " * 9), conversation("b", "one"))
        asked = {"model": "smollm2-135m", "backend": "pytorch", "n": 4, "dataset": {"chat_template": "auto"}}
        assert weights_path(resolve("smollm2-135m")) is not None
        whole = prepared(config(path, max_input_tokens=512, **asked))
        lengths = [len(one.prompt) for one in whole.workload.requests]
        assert len(lengths) == 4
        # The longest turn is left out, and the others as they were.
        made = prepared(config(path, max_input_tokens=max(lengths) - 1, **asked))
        assert prepared(config(path, max_input_tokens=max(lengths) - 1, **asked)) == made
        assert len(made.workload.requests) == 3
        assert {one.prompt for one in made.workload.requests} < {
            one.prompt for one in whole.workload.requests
        }
        assert made.dataset.left_out == 1
        assert len(list((tmp_path / "cache" / "workloads").iterdir())) == 2
        (second,) = (place for place, one in enumerate(made.workload.requests) if one.turn == 2)
        before, later = made.workload.requests[second - 1 : second + 1]
        assert later.prompt[: len(before.prompt)] == before.prompt
