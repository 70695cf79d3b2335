"""What commands print fits a terminal, broken between words only."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest
from example_result import example_result
from typer.testing import CliRunner, Result

from llenergymeasure.cli import app
from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._streams import print_lines
from llenergymeasure.cli.study import _narrowed
from llenergymeasure.results.summary import Row

WIDTHS = (100, 80, 60, 40)


def printed(monkeypatch: pytest.MonkeyPatch, width: int | None, *arguments: str | Path) -> Result:
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    return CliRunner().invoke(app, [str(each) for each in arguments])


def words(done: Result) -> set[str]:
    """Without the numbers, which a moment may change, and what separates cells."""
    text = re.sub(r"\d[\d.,]*", "0", done.stdout + done.stderr)
    return {word.rstrip(":;") for word in text.split()}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return example_result(energy="measured").save(tmp_path)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_that_is_too_wide_goes_on_below(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    heads = ["energy per token", "throughput", "TTFT", "TPOT", "requests", "per request", "ITL", "warnings"]
    rows = [
        ["experiment", *heads],
        *([f"concurrency={users}", *(f"{users} of {head}" for head in heads)] for users in (1, 4, 8)),
    ]
    monkeypatch.setenv("COLUMNS", str(width))
    lines = list(_narrowed(rows))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert all(cell in text for row in [heads, *rows[1:]] for cell in row)
    # of many it does not
    few = "\n".join(_narrowed([*rows, *rows[1:] * 10]))
    assert ("not shown for lack of width:" in few) == (width >= 80)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "--simulated"),
        ("run", "--model", "gpt2", "--backend", "simulated", "--dry-run"),
        ("run", "--model", "gpt2", "--backend", "simulated", "--set", "decoder.top_p=7"),
        ("run", "--model", "gpt2", "--backend", "simulated", "--dataset", "no such file.jsonl"),
        ("list", "{results}"),
        ("show", "{result}"),
        ("show", "{result}", "-v"),
        ("show", "{result}", "--uncertainty"),
        ("compare", "{result}", "{result}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_lines_break_between_words_and_only_a_word_may_be_longer(
    monkeypatch: pytest.MonkeyPatch, result: Path, width: int, arguments: tuple[str, ...]
) -> None:
    places = {"result": result, "results": result.parent}
    given = [each.format(**places) for each in arguments]
    wide, narrow = (printed(monkeypatch, room, *given) for room in (None, width))
    for line in (*narrow.stdout.splitlines(), *narrow.stderr.splitlines()):
        assert len(line) <= width or len(line.split()) == 1
    assert words(narrow) <= words(wide)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_note_without_label_and_value_leaves_no_empty_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = "run 2 of 3 failed: the worker was killed (signal 9) in its measure stage; memory is short"
    rows = [Row("Runs", "2 runs of 3 passes", "each a fresh process"), Row("", "", said, strong=True)]
    print_lines(chain(*row_lines(rows)))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.strip() for line in lines)
    assert " ".join(" ".join(lines).split()).endswith(said)
