"""Are datasets read in the formats that people have, and refused by name in those that they do not?"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import DatasetFacts
from llenergymeasure.workload import Dataset, Prompt, load_prompts
from llenergymeasure.workload.files import MAX_RECORD_BYTES


def config(dataset: object, **fields: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "n": 1, "dataset": dataset, **fields})


def loaded(path: Path, n: int = 1, **dataset: object) -> Dataset:
    return load_prompts(config({"name": str(path), **dataset}, n=n))


def in_order(path: Path, n: int) -> list[Prompt]:
    return sorted(loaded(path, n).prompts, key=lambda prompt: int(prompt.id))


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def one(folder: Path, record: object, **dataset: object) -> Prompt:
    (prompt,) = loaded(lines(folder / "one.jsonl", record), 1, **dataset).prompts
    return prompt


def skipped(facts: DatasetFacts) -> list[tuple[int, tuple[int, ...]]]:
    return [(each.count, each.first) for each in facts.skipped]


# Records


@pytest.mark.parametrize(
    ("record", "text", "kind"),
    [
        ("plain", "plain", "text"),
        ({"prompt": "p", "text": "unused"}, "p", "prompt"),
        ({"prompt": None, "text": "t"}, "t", "text"),
        ({"text": "t ü"}, "t ü", "text"),
        ({"text_input": "a"}, "a", "aiperf"),
        ({"texts": [{"name": "x", "contents": ["a", "b"]}]}, "a\n\nb", "aiperf"),
        ({"session_id": "s", "turns": [{"text": "first", "delay": 0}, {"text": "later"}]}, "first", "aiperf"),
        (
            {"instruction": "Sum it up", "input": "long text", "output": "x"},
            "Sum it up\n\nlong text",
            "instruction set",
        ),
        (
            {"instruction": "Name one.", "input": "", "output": "x", "text": "all of it"},
            "Name one.",
            "instruction set",
        ),
        (
            {"instruction": "Why?", "context": "It fell.", "response": "x"},
            "Why?\n\nIt fell.",
            "instruction set",
        ),
        ({"question": "2 + 2?", "answer": "4"}, "2 + 2?", "question"),
        ({"inputs": "tgi", "parameters": {"max_new_tokens": 5}}, "tgi", "input"),
        ({"prompt": "v", "output_tokens": 5}, "v", "vLLM custom"),
        ([{"role": "user", "content": "bare list"}], "bare list", "OpenAI messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "part"}]}]},
            "part",
            "OpenAI messages",
        ),
    ],
)
def test_a_record_of_every_known_format_gives_its_prompt(
    tmp_path: Path, record: object, text: str, kind: str
) -> None:
    found = loaded(lines(tmp_path / "one.jsonl", record))
    assert (found.prompts[0].text, found.prompts[0].turns) == (text, None)
    assert found.facts.formats == (kind,)


def test_of_messages_all_up_to_the_last_question_is_the_prompt(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Name a prime."},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Another."},
        {"role": "assistant", "content": "11"},
    ]
    prompt = one(tmp_path, {"messages": messages})
    assert prompt.turns == tuple((each["role"], each["content"]) for each in messages[:4])
    assert prompt.text == "Be short.\n\nName a prime.\n\n7\n\nAnother."


def test_of_a_sharegpt_conversation_the_first_question_is_the_prompt(tmp_path: Path) -> None:
    talk = [("human", "first"), ("gpt", "answer"), ("human", "second"), ("gpt", "x")]
    record = {"id": "abc_0", "conversations": [{"from": who, "value": said} for who, said in talk]}
    assert one(tmp_path, record) == Prompt("abc_0", "first")
    record["conversations"] = [{"from": "system", "value": "be kind"}, *record["conversations"]]
    assert one(tmp_path, record).turns == (("system", "be kind"), ("user", "first"))


def test_a_request_of_an_openai_batch_gives_its_prompt_and_its_length(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    found = loaded(
        lines(tmp_path / "b.jsonl", {"custom_id": "r1", "url": "/v1/chat/completions", "body": body})
    )
    assert found.prompts == (Prompt("r1", "hi", output_tokens=5),)
    assert (found.facts.formats, found.facts.own_lengths) == (("OpenAI batch",), 1)


def test_a_trace_of_lengths_gives_synthetic_prompts_of_these_lengths(tmp_path: Path) -> None:
    record = {"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [46, 47]}
    assert one(tmp_path, record) == Prompt("1", length=655, output_tokens=52)


def test_the_column_that_is_named_holds_the_prompt(tmp_path: Path) -> None:
    record = {"prompt": "not this", "riddle": "this"}
    assert one(tmp_path, record, column="riddle").text == "this"
    with pytest.raises(ConfigError, match="line 1 is an object without ridle") as caught:
        one(tmp_path, record, column="ridle")
    assert "dataset.column=" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"riddle": "what?", "n": 1}, "an object with the keys riddle, n"),
        (5, "a number"),
        (["a"], "a list"),
        (True, "true or false"),
        ({"input_ids": [1, 2]}, "token ids"),
    ],
)
def test_a_record_of_no_known_format_is_refused_by_what_it_is(
    tmp_path: Path, record: object, says: str
) -> None:
    path = lines(tmp_path / "own.jsonl", "fine", record)
    with pytest.raises(ConfigError, match=f"line 2 is .*{says}") as caught:
        loaded(path)
    if isinstance(record, dict) and "riddle" in record:
        assert "--set dataset.column=riddle" in str(caught.value.hint)


# Lengths of their own


def test_lengths_beyond_max_output_tokens_are_refused_with_the_longest(tmp_path: Path) -> None:
    records = [{"prompt": "a", "output_tokens": 17}, {"prompt": "b", "output_tokens": 300}, {"prompt": "c"}]
    path = lines(tmp_path / "own.jsonl", *records)
    with pytest.raises(
        ConfigError, match=r"prompt 2 .* 300 output tokens, and max_output_tokens is 128"
    ) as caught:
        loaded(path, 3)
    assert "max_output_tokens=300" in str(caught.value.hint)
    found = load_prompts(config(str(path), n=3, max_output_tokens=300))
    assert {prompt.id: prompt.output_tokens for prompt in found.prompts} == {"1": 17, "2": 300, "3": None}
    assert found.facts.own_lengths == 2


# Odd records


ODD: tuple[object, ...] = (
    {"conversations": [{"from": "human", "value": "Fine."}, {"from": "gpt", "value": "x"}]},
    {"conversations": []},
    {"conversations": [{"from": "gpt", "value": "an answer before any question"}]},
    {"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "hm"}]},
    {"conversations": [{"from": "human", "value": "half a pair \ud83d"}]},
    {"conversations": None},
    None,
    {},
    {"prompt": 5},
    {"prompt": "p", "output_tokens": 0},
    {"prompt": "p", "output_tokens": "many"},
    {"messages": [{"role": "system", "content": "only this"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"prompt": " \n"},
    {"conversations": []},
)


def test_odd_records_are_skipped_and_counted_by_kind_with_their_first_lines(tmp_path: Path) -> None:
    found = loaded(lines(tmp_path / "odd.jsonl", *ODD))
    assert [prompt.text for prompt in found.prompts] == ["Fine."]
    assert (found.facts.records, found.facts.numbered_by, found.facts.skipped_count) == (15, "line", 14)
    assert skipped(found.facts) == [
        (2, (2, 15)),
        (1, (3,)),
        (2, (4, 14)),
        (1, (5,)),
        (1, (6,)),
        (2, (7, 8)),
        (1, (9,)),
        (2, (10, 11)),
        (1, (12,)),
        (1, (13,)),
    ]


def test_of_many_odd_records_the_first_five_lines_are_named(tmp_path: Path) -> None:
    found = loaded(lines(tmp_path / "odd.jsonl", *[{"prompt": ""}] * 8, "fine"))
    assert skipped(found.facts) == [(8, (1, 2, 3, 4, 5))]


@pytest.mark.parametrize("record", ODD[1:])
def test_strict_refuses_an_odd_record_by_its_line(tmp_path: Path, record: object) -> None:
    path = lines(tmp_path / "odd.jsonl", "fine", "also", record)
    assert len(loaded(path, 2).prompts) == 2
    with pytest.raises(ConfigError, match="line 3"):
        loaded(path, 2, strict=True)


def test_too_few_prompts_are_counted_in_one_number_or_the_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 prompt, and n is 2"):
        loaded(lines(tmp_path / "own.jsonl", "a"), 2)
    with pytest.raises(
        ConfigError, match=r"has 2 prompts \(1 of 3 records hold none: .* line 2\)\), and n is 3"
    ):
        loaded(lines(tmp_path / "own.jsonl", "a", "", "b"), 3)
    with pytest.raises(ConfigError, match="has 0 prompts"):
        loaded(lines(tmp_path / "own.jsonl", ""))


# Files


BOTH = [Prompt("1", "one\u2028two"), Prompt("2", "café\nau lait")]
AS_LINES = "".join(json.dumps({"prompt": prompt.text}, ensure_ascii=False) + "\n" for prompt in BOTH).encode()
AS_ARRAY = json.dumps([prompt.text for prompt in BOTH], ensure_ascii=False).encode()
SPREAD = json.dumps([{"prompt": prompt.text} for prompt in BOTH], indent=2).encode()


@pytest.mark.parametrize(
    "name", ["own.jsonl", "own.JSONL", "own.json", "own.ndjson", "own.jsonl.gz", "OWN.GZ"]
)
@pytest.mark.parametrize(
    "content",
    [
        AS_LINES,
        AS_LINES.rstrip(),
        AS_LINES.replace(b"\n{", b"\r\n{"),
        b"\xef\xbb\xbf" + AS_LINES,
        AS_ARRAY,
        b"\xef\xbb\xbf \r\n" + AS_ARRAY,
        SPREAD,
        SPREAD.replace(b"\n", b"\r\n"),
        b'{"data": ' + SPREAD + b', "version": 1}',
        b"".join(json.dumps({"prompt": prompt.text}, indent=1).encode() + b"\n" for prompt in BOTH),
    ],
    ids=["lines", "cut", "crlf", "bom", "array", "bom-array", "spread", "spread-crlf", "inside", "pretty"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_lines_and_arrays_are_read_by_their_content_whatever_the_file_is_called(
    tmp_path: Path, name: str, content: bytes, packed: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if packed else content)
    assert in_order(path, 2) == BOTH


def test_a_blank_line_counts_as_a_line_and_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"plain"\n\n  \n{"prompt": "p", "id": 7}\n{"text": "t"}')
    assert in_order(path, 3) == [Prompt("1", "plain"), Prompt("5", "t"), Prompt("7", "p")]
    assert loaded(path, 3).facts.records == 3


def test_a_number_that_is_not_one_in_json_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"prompt": "a", "score": NaN}\n')
    assert loaded(path).prompts == (Prompt("1", "a"),)


def test_an_array_larger_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    texts = [f"{number}: {'é' * (number * 997 % 50_000)}" for number in range(100)]
    path = tmp_path / "large.json"
    path.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 2 * 2**20
    assert {prompt.text for prompt in loaded(path, 100).prompts} == set(texts)


def test_a_relative_path_and_the_home_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path / "own.jsonl", "here")
    lines(tmp_path / "bare", "bare")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("own.jsonl", "./own.jsonl", "~/own.jsonl"):
        assert loaded(Path(name)).prompts == (Prompt("1", "here"),)
    assert load_prompts(config("bare")).prompts == (Prompt("1", "bare"),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'"fine"\n{"prompt": \n', r"line 2, column 11 is not valid JSON: Expecting value"),
        (b'"fine"\n\n{"prompt": "a" "b"}\n', r"line 3, column 16 is not valid JSON"),
        (b'{"prompt": "a" "b"}\n"fine"\n', r"line 1, column 16 is not valid JSON"),
        (b'[\n "a",\n {"prompt" "b"}\n]\n', r"line 3, column 12 is not valid JSON"),
        (b'[\n "a"\n "b"]\n', r"line 3, column 2 is not valid JSON: Expecting ','"),
        (b'[{"prompt": "a"}, {"prompt": "b"', r"line 1, column 33 is not valid JSON"),
        (b'[{"prompt": "a"}, ', "cut short"),
        (b'"fine"\n"\xff"\n', r"line 2 is not UTF-8"),
        (b'["fine",\n"\xff"]\n', r"is not UTF-8"),
        (b"[" * 100_000, r"line 1.* is not valid JSON"),
        (b'"' + b"x" * MAX_RECORD_BYTES + b'"\n', r"not JSON|longer than"),
        (b'"a"\n"' + b"x" * MAX_RECORD_BYTES + b'"\n', rf"line 2 is longer than {MAX_RECORD_BYTES} bytes"),
        (gzip.compress(AS_LINES * 9000, mtime=0)[:200], "damaged or cut short gzip"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        loaded(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ConfigError, match=r"has 1\.1 GB"):
        loaded(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, says in [
        ("absent.jsonl", "there is no dataset file"),
        ("folder.jsonl", "is a directory"),
        ("pipe.jsonl", "not a regular file"),
        ("x" * 5000 + ".jsonl", "can't be read"),
    ]:
        with pytest.raises(ConfigError, match=says) as caught:
            loaded(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message


# Other formats, and the command that converts them


def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a", "b"]}), path)


def arrow(path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"prompt": ["a", "b"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("it's.csv", "\ufeffprompt,answer\r\na,1\r\nb,2\r\n".encode(), "CSV"),
        ("own.csv", b'"prompt","answer"\n"a","1"\n"b","2"\n', "CSV"),
        ("own.tsv", b"prompt\tanswer\na\t1\nb\t2\n", "TSV"),
        ("own.txt", b"a\n\nb\n", "plain text"),
        ("own.jsonl", '"a"\n"b"\n'.encode("utf-16"), "UTF-16"),
        ("own.jsonl", '"a"\n"b"\n'.encode("utf-16-be"), "UTF-16"),
        ("own.jsonl", '["a",\n"b"]\n'.encode("utf-16-le"), "UTF-16"),
        ("own.json", '["a", "b"]'.encode("utf-32"), "UTF-32"),
        ("own.parquet", parquet, "Parquet"),
        ("own.arrow", arrow, "Arrow"),
    ],
)
def test_another_format_is_named_and_the_command_of_its_hint_converts_it(
    tmp_path: Path, name: str, content: object, says: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    with pytest.raises(ConfigError, match=says) as caught:
        loaded(path, 2)
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = set(tmp_path.iterdir())
    subprocess.run(["bash", "-c", str(caught.value.hint)], cwd=tmp_path, env=here, check=True, timeout=60)
    (made,) = set(tmp_path.iterdir()) - before
    assert {prompt.text for prompt in loaded(made, 2).prompts} == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"\x7fELF\0\0\0", "binary"),
        (b'"a\0b"\n', "binary"),
        (gzip.compress(gzip.compress(b'"a"\n', mtime=0), mtime=0), "gzip-compressed twice"),
        ('"caf\u00e9"\n"b"\n'.encode("latin-1"), "first text, is not UTF-8"),
        ("caf\u00e9\n".encode("latin-1") * 2, "plain text"),
    ],
)
def test_what_is_no_text_of_prompts_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        loaded(path)
    assert caught.value.hint


def test_a_file_may_begin_with_a_record_that_is_null(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('null\n"a"\n"b"\n', encoding="utf-8")
    found = loaded(path, 2)
    assert {prompt.text for prompt in found.prompts} == {"a", "b"}
