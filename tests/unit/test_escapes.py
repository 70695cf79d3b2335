"""Nothing that a file, a path, a result or an engine says steers the terminal or passes for words of llem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from example_result import example_result
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli._streams import printable
from llenergymeasure.exceptions import BackendError, ExperimentError, ResultError
from llenergymeasure.records import RunFailure

# Red, back to the line's start, a bell, C1's CSI, a right-to-left override, and a line of its own.
EVIL = "a\x1b[31mb\rc\x07d\x9b2Je\u202ef\nhint: forged\nSaved: forged"


@pytest.fixture(autouse=True)
def _nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def said(*arguments: str) -> str:
    """What a command prints, on both streams, once it is sure that the text is harmless."""
    outcome = CliRunner().invoke(app, list(arguments))
    assert not isinstance(outcome.exception, BaseException) or isinstance(outcome.exception, SystemExit)
    text = outcome.stdout + outcome.stderr
    harmless(text)
    return text


def harmless(text: str) -> None:
    steering = {sign for sign in text if not sign.isprintable()} - {"\n", "\u00a0", "\u202f"}
    assert steering == set()
    assert not [line for line in text.splitlines() if line.startswith(("hint: forged", "Saved: forged"))]


def test_what_is_printable_stays_and_all_else_is_escaped() -> None:
    assert printable("≈ 803 ± 17 mJ/token, 中文, é") == "≈ 803 ± 17 mJ/token, 中文, é"
    assert printable("\x1b[1m\x85\u2066") == r"\x1b[1m\x85\u2066"
    assert printable("a\nb\tc") == r"a\nb\tc"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"
    assert printable("\udcff") == r"\udcff"


@pytest.mark.parametrize(
    "content",
    [
        {EVIL: 1},
        {"model": EVIL},
        {"model": "gpt2", "decoder": {EVIL: 1}},
        {"model": "gpt2", "backend": EVIL},
        {"model": "gpt2", "n": EVIL},
        {"model": "gpt2", "dataset": f"{EVIL}.jsonl"},
        {"model": "gpt2", "energy": {"meter": EVIL}},
        {"model": "gpt2", "runner": {"kind": "container", "image": "x", "mounts": [EVIL]}},
    ],
)
def test_a_configuration(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(json.dumps(content))
    assert said("run", "evil.yaml", "--dry-run")


def test_a_dry_run_shows_values_and_the_file_they_come_from(tmp_path: Path) -> None:
    name = "a\x1b[31m\nhint: forged.yaml"
    content = {
        "model": "random:gpt2",
        "passthrough_kwargs": {EVIL: EVIL},
        "output_dir": EVIL,
        "repeats": {"count": 2},
    }
    (tmp_path / name).write_text(json.dumps(content))
    assert "a\\x1b[31mb\\rc\\x07d\\x9b2Je\\u202ef" in said("run", name, "--dry-run")


@pytest.mark.parametrize("path", ["no\x1b[31m", "no\nhint: forged"])
@pytest.mark.parametrize("command", [["run"], ["show"], ["recompute"], ["compare", "x"]])
def test_a_path(command: list[str], path: str) -> None:
    assert said(*command, path)


def evil_result(folder: Path, number: int = 1) -> Path:
    """A result all of whose free text is evil."""
    result: Any = example_result().as_json()

    def spoil(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: spoil(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner, key) for inner in value]
        free = {"message", "remedy", "reason", "cpu", "hostname", "os", "kernel", "model", "name", "llem"}
        return EVIL if isinstance(value, str) and key in free else value

    spoilt = spoil(result, "")
    spoilt["config"] = result["config"]
    spoilt["origins"] = dict.fromkeys(result["origins"], EVIL)
    spoilt["experiment_id"] += str(number)
    path = folder / str(number) / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps(spoilt))
    return path


@pytest.mark.parametrize("options", [[], ["-v"], ["--uncertainty"], ["--json"]])
def test_a_result(options: list[str], tmp_path: Path) -> None:
    assert said("show", str(evil_result(tmp_path)), *options)


def test_two_results(tmp_path: Path) -> None:
    paths = [str(evil_result(tmp_path, number)) for number in (1, 2)]
    assert "a\\x1b[31mb" in said("compare", *paths)
    assert said("recompute", paths[0])


@pytest.mark.parametrize("options", [[], ["-v"]])
@pytest.mark.parametrize(
    "error",
    [
        BackendError(EVIL, hint=EVIL),
        ResultError(EVIL),
        ExperimentError(EVIL, failure=RunFailure("r1", "measure", "crash", EVIL, log_tail=EVIL)),
        KeyError(EVIL),
    ],
)
def test_an_engine_s_error(error: Exception, options: list[str]) -> None:
    with patch("llenergymeasure.cli.run.run_experiment", MagicMock(side_effect=error)):
        outcome = CliRunner().invoke(app, ["run", "-m", "gpt2", *options])
    assert outcome.exit_code == 1
    harmless(outcome.stdout + outcome.stderr)


def test_the_line_of_progress_and_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    def experiment(_: Any, *, progress: Any, remark: Any, **__: Any) -> MagicMock:
        progress(EVIL, note=EVIL)
        remark(EVIL)
        return MagicMock()

    bar = MagicMock()
    bar.__enter__.return_value = bar
    with (
        patch("llenergymeasure.cli.run.run_experiment", experiment),
        patch("llenergymeasure.cli.run.tqdm", MagicMock(return_value=bar)),
        patch("llenergymeasure.cli.run.print_result_summary", MagicMock()),
    ):
        outcome = CliRunner().invoke(app, ["run", "-m", "gpt2"])
    assert outcome.exit_code == 0
    harmless(outcome.stderr)
    for call in bar.set_description_str.call_args_list:
        harmless(call.args[0])
