"""Traces of three makers are read to the millisecond; what is wrong in one is refused by file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.preflight import reasons_against
from llenergymeasure.records import Request
from llenergymeasure.workload.prepared import build_requests
from llenergymeasure.workload.prompts import load_prompts
from llenergymeasure.workload.tokenizer import ByteTokenizer
from llenergymeasure.workload.traces import Trace, TraceRecord, read_trace

BYTES = ByteTokenizer(256)
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-15 12:00:03.9500200,4801,11\r\n"
    "2023-11-15 12:00:04.0020200,3100,7\r\n"
    "2023-11-15 18:00:00,112,25\r\n"
)
OWN = {"at_s": 0.25, "input_tokens": 12, "output_tokens": 3}
MOONCAKE = {"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [46, 47]}


def lines(folder: Path, *records: object) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def text(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, most: int = 100) -> Trace:
    return read_trace(path, most=most)


def config(path: Path, **fields: object) -> ExperimentConfig:
    """As a result brings it: whether an engine takes a load is not asked."""
    load = {"arrivals": "trace", "trace": str(path)}
    return ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "load": load, **fields}, context={"stored": True}
    )


class TestForms:
    def test_times_count_from_the_first_record(self, tmp_path: Path) -> None:
        path = lines(tmp_path, OWN, {**OWN, "at_s": 2, "input_tokens": 9})
        assert read(path) == Trace(
            "llem", (TraceRecord("line 1", 0, 12, 3), TraceRecord("line 2", 1.75, 9, 3))
        )

    def test_mooncake_counts_milliseconds_and_blocks(self, tmp_path: Path) -> None:
        trace = read(lines(tmp_path, MOONCAKE, {**MOONCAKE, "timestamp": 10535, "input_length": 1024}))
        assert trace.form == "Mooncake"
        assert trace.records[1] == TraceRecord("line 2", 10.535, 1024, 52, (46, 47))

    def test_azure_s_dates_have_seven_decimals_or_none(self, tmp_path: Path) -> None:
        trace = read(text(tmp_path, AZURE))
        assert trace.form == "Azure"
        assert [one.at_s for one in trace.records] == pytest.approx([0, 0.052, 21596.04998], abs=1e-6)
        assert [(one.place, one.input_tokens, one.output_tokens) for one in trace.records] == [
            ("line 2", 4801, 11),
            ("line 3", 3100, 7),
            ("line 4", 112, 25),
        ]

    def test_azure_s_later_dates_have_a_zone(self, tmp_path: Path) -> None:
        rows = "2024-05-10 00:00:00.009930+00:00,10,1\n2024-05-10 02:00:00.009930+01:00,10,1\n"
        (_, later) = read(text(tmp_path, AZURE.splitlines()[0] + "\n" + rows)).records
        assert later.at_s == 3600

    def test_what_a_file_is_called_does_not_matter(self, tmp_path: Path) -> None:
        packed = tmp_path / "trace.txt"
        packed.write_bytes(gzip.compress(json.dumps(OWN).encode()))
        assert read(packed).records == (TraceRecord("line 1", 0, 12, 3),)
        assert read(text(tmp_path, b"\xef\xbb\xbfat_s, input_tokens, output_tokens\n1.5, 7, 2\n")) == Trace(
            "llem", (TraceRecord("line 2", 0, 7, 2),)
        )

    def test_what_lies_beyond_the_records_asked_for_is_not_read(self, tmp_path: Path) -> None:
        path = lines(tmp_path, OWN, {**OWN, "at_s": -1})
        assert len(read(path, 1).records) == 1
        with pytest.raises(ConfigError, match="line 2"):
            read(path, 2)

    @given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 9999), st.integers(1, 999)), min_size=1))
    def test_mooncake_s_and_our_own_form_say_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
    ) -> None:
        folder = tmp_path_factory.mktemp("both")
        rows = sorted(rows)
        theirs = [{"timestamp": at, "input_length": new, "output_length": out} for at, new, out in rows]
        found = read(lines(folder, *theirs)).records
        own = [{"at_s": at / 1000, "input_tokens": new, "output_tokens": out} for at, new, out in rows]
        assert [one.at_s for one in found] == pytest.approx(
            [one.at_s for one in read(lines(folder, *own)).records], abs=1e-6
        )


@pytest.mark.parametrize(
    ("records", "line", "part"),
    [
        ([OWN, {**OWN, "at_s": 0.2}], 2, "at_s 0.2"),
        ([OWN, {**OWN, "at_s": float("nan")}], 2, "nan"),
        ([{**OWN, "at_s": True}], 1, "True"),
        ([{**OWN, "at_s": [1]}], 1, "[1]"),
        ([{**OWN, "input_tokens": 10**400}], 1, "input_tokens"),
        ([{**OWN, "output_tokens": None}], 1, "output_tokens"),
        ([{**OWN, "at_s": "soon"}], 1, "soon"),
        ([{**OWN, "input_tokens": -4}], 1, "input_tokens -4"),
        ([{**OWN, "input_tokens": 0}], 1, "input_tokens 0"),
        ([{**OWN, "input_tokens": float("inf")}], 1, "inf"),
        ([OWN, {**OWN, "output_tokens": 1.5}], 2, "output_tokens 1.5"),
        ([OWN, {"at_s": 3, "input_tokens": 4}], 2, "output_tokens"),
        ([OWN, MOONCAKE], 2, "at_s"),
        ([OWN, [1, 2, 3]], 2, "object"),
        ([{"when": 3, "tokens": 4}], 1, "when, tokens"),
        ([{**MOONCAKE, "hash_ids": [46]}], 1, "655"),
        ([{**MOONCAKE, "hash_ids": [46, "47"]}], 1, "hash_ids"),
    ],
)
def test_a_wrong_record_is_refused_by_file_and_line(
    tmp_path: Path, records: list[object], line: int, part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(lines(tmp_path, *records))
    assert f"trace.jsonl, line {line}:" in caught.value.message
    assert part in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (AZURE.replace("GeneratedTokens", "Tokens"), "line 2: GeneratedTokens"),
        ("a,b,c\n1,2,3\n", "a, b, c"),
        (AZURE + "2023-11-18 00:00:00,5\r\n", "line 5: GeneratedTokens"),
        (AZURE + "2023-11-18 00:00:00,5,6,7\r\n", "line 5"),
        (AZURE + "2023-11-18 25:00:00,5,6\r\n", "line 5"),
        (AZURE + "2023-11-15 12:00:03,5,6\r\n", "line 5"),
        (AZURE + "2023-11-18 00:00:00,nan,6\r\n", "line 5: ContextTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        ("", "no requests"),
        ("\n \n", "no requests"),
        ("a trace of\n\xff\xfe things\n".encode("latin-1"), "not a table"),
        ('{"at_s": 1, "input_tokens"', "line 1"),
        ("[]", "record 1"),
        ('[{"at_s": 0, "input_tokens": 4, "output_tokens": 2},\n {"at_s": 1}]', "record 2"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: str | bytes, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text(tmp_path, content))
    assert part in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(ConfigError, match=r"load\.trace"):
            read(path)


class TestRequests:
    def made(self, path: Path, **fields: Any) -> tuple[Request, ...]:
        asked = config(path, **{"max_input_tokens": 4096, **fields})
        return build_requests(asked, load_prompts(asked).prompts, BYTES).requests

    def test_each_has_the_lengths_of_its_record_in_their_order(self, tmp_path: Path) -> None:
        path = lines(tmp_path, *({**OWN, "input_tokens": 5 + k, "output_tokens": 9 - k} for k in range(4)))
        made = self.made(path)
        assert [(len(one.prompt), one.max_output_tokens) for one in made] == [(5, 9), (6, 8), (7, 7), (8, 6)]
        assert self.made(path, n=2) == made[:2]
        assert self.made(path, random_seed=1)[0].prompt != made[0].prompt

    def test_equal_blocks_have_equal_tokens_and_others_do_not(self, tmp_path: Path) -> None:
        path = lines(
            tmp_path,
            {**MOONCAKE, "input_length": 1300, "hash_ids": [46, 47, 48]},
            {**MOONCAKE, "input_length": 1100, "hash_ids": [46, 47, 49]},
            {**MOONCAKE, "input_length": 700, "hash_ids": [50, 47]},
            {**MOONCAKE, "input_length": 600, "hash_ids": [46, 47]},
        )
        first, second, third, short = (one.prompt for one in self.made(path))
        assert [len(one) for one in (first, second, third, short)] == [1300, 1100, 700, 600]
        assert first[:1024] == second[:1024]
        assert short == first[:600]
        assert first[1024:1100] != second[1024:1100]
        assert third[512:] == first[512:700]
        assert third[:512] != first[:512]
        assert first[:512] != first[512:1024]

    def test_facts_count_what_was_used(self, tmp_path: Path) -> None:
        facts = load_prompts(config(lines(tmp_path, *[OWN] * 3), n=2)).facts
        assert (facts.prompts, facts.formats, facts.conversations) == (2, ("llem trace",), None)
        assert load_prompts(config(lines(tmp_path, *[OWN] * 3), n=9)).facts.prompts == 3

    @pytest.mark.parametrize(
        ("field", "most"), [("max_input_tokens", "input_tokens"), ("max_output_tokens", "output_tokens")]
    )
    def test_a_record_beyond_a_limit_is_refused_by_line_with_the_limit_to_set(
        self, tmp_path: Path, field: str, most: str
    ) -> None:
        path = lines(tmp_path, OWN, {**OWN, most: 777}, {**OWN, most: 600})
        limits = {"max_input_tokens": 512, "max_output_tokens": 128}
        with pytest.raises(ConfigError, match=r"line 2.*777") as caught:
            load_prompts(config(path, **limits))
        assert f"--set {field}=777" in str(caught.value.hint)
        load_prompts(config(path, **{**limits, field: 777}))

    def test_a_record_beyond_the_model_s_context_is_refused_by_line(self, tmp_path: Path) -> None:
        limits = {"backend": "pytorch", "model": "random:smollm2-135m"}
        long = {**OWN, "input_tokens": 8000, "output_tokens": 193}

        def against(record: object) -> list[str]:
            path = lines(tmp_path, OWN, record)
            asked = config(path, max_input_tokens=8000, max_output_tokens=193, n=2, **limits)
            return [one for one in reasons_against(asked) if "context" in one]

        (reason,) = against(long)
        assert "line 2" in reason
        assert "8192" in reason
        # The limits together are more than the context, and no record is.
        assert against({**long, "output_tokens": 192}) == []


def test_a_trace_takes_no_dataset_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="dataset"):
        config(lines(tmp_path, OWN), dataset={"name": "synthetic"})
    assert config(lines(tmp_path, OWN)).prompts_from == str(tmp_path / "trace.jsonl")


def test_time_to_think_needs_somebody_who_answers(tmp_path: Path) -> None:
    def asked(turns: str) -> ExperimentConfig:
        load = {"arrivals": "poisson", "rate": 2, "think_s": 1}
        return ExperimentConfig.model_validate(
            {"model": "any", "backend": "simulated", "load": load, "dataset": {"turns": turns}},
            context={"stored": True},
        )

    assert asked("all").load is not None
    with pytest.raises(ValidationError, match="think_s"):
        asked("one")
