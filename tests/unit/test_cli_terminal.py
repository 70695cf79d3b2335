"""What a real shell and a real terminal see: completion, examples, colour, links, silence."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from llenergymeasure.cli import app, compare, report
from llenergymeasure.cli._help import EXAMPLES
from llenergymeasure.config.models import BUILTIN_METERS
from llenergymeasure.report.export import FORMS
from llenergymeasure.results.study import SORTS
from llenergymeasure.results.study_table import Format

ROOT = Path(__file__).parents[2]
LLEM = [sys.executable, "-m", "llenergymeasure"]
RUN = ["run", "-m", "any", "-b", "simulated", "--preset", "smoke", "-n", "2"]
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM_PROGRAM", "VTE_VERSION", "WT_SESSION"}
}
COMPLETING = """
eval "$(_LLEM_COMPLETE=source_bash llem)"
COMP_WORDS=(TYPED)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_llem_completion llem
printf '%s\\n' "${COMPREPLY[@]}"
"""


def commands(group: TyperGroup, name: str = "llem") -> Iterator[str]:
    yield name
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}"


def all_commands() -> list[str]:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return list(commands(group))


def shown(*arguments: str, terminal: bool = True, **variables: str) -> str:
    """stdout and stderr together, as a terminal of 80 columns gets them."""
    environment: Mapping[str, str] = {**PLAIN, "TERM": "xterm-256color", **variables}
    if not terminal:
        done = subprocess.run(
            [*LLEM, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
        return done.stdout.decode()
    ours, theirs = pty.openpty()
    with subprocess.Popen([*LLEM, *arguments], env=environment, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # the other end is closed
            pass
        child.wait(timeout=60)
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is bash that completes")
@pytest.mark.parametrize(
    ("words", "expected", "unexpected"),
    [
        (["llem", "ru"], {"run"}, {"exec"}),
        (["llem", "run", "--me"], {"--meter"}, set()),
        (["llem", "run", "-b", ""], {"pytorch", "vllm", "simulated"}, set()),
        (["llem", "run", "-p", "b"], {"bf16"}, {"fp32"}),
        (["llem", "run", "--preset", "r"], {"rigorous"}, {"quick"}),
        (["llem", "watch", "--meter", "n"], {"nvml"}, {"rapl"}),
        (["llem", "run", "-m", "smol"], {"smollm2-135m"}, set()),
        (["llem", "run", "-m", "org"], {"org/model"}, set()),
        (["llem", "run", "--set", "decoder.temp"], {"decoder.temperature="}, {"decoder.top_p="}),
        (["llem", "run", "--set", "precis"], {"precision=bf16", "precision=fp32"}, set()),
        # As bash breaks a word at its signs: what comes back goes in the place of the last piece.
        (["llem", "run", "--set", "pytorch.compile", "="], {"true", "false"}, {"bf16"}),
        (["llem", "run", "--set", "precision", "=", "b"], {"bf16"}, {"fp32"}),
        (["llem", "run", "--set", "=", "preset", "=", "ri"], {"rigorous"}, {"quick"}),
        (["llem", "run", "--set", "energy.meter", "=", "ip"], {"ipmi"}, {"nvml"}),
        (["llem", "run", "--set", "n", "=", "3", "--preset", "r"], {"rigorous"}, {"quick"}),
        (["llem", "show", ""], {"last", "one", "results/one"}, {"other", "results/other"}),
        (["llem", "report", "o"], {"one"}, {"other", "last"}),
        (["llem", "export", "one", "la"], {"last"}, {"one"}),
        (["llem", "compare", "results/one", "results/o"], {"results/one"}, {"results/other"}),
        (["llem", "run", "--color", "n"], {"never"}, {"auto"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bash_completes_values_as_well_as_flags(
    words: list[str], expected: set[str], unexpected: set[str], tmp_path: Path
) -> None:
    (tmp_path / "results" / "one").mkdir(parents=True)
    (tmp_path / "results" / "one" / "result.json").write_text("{}")
    (tmp_path / "results" / "other").mkdir()
    (tmp_path / "hub" / "models--org--model").mkdir(parents=True)
    program = tmp_path / "bin" / "llem"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(LLEM)} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{PLAIN['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETING.replace("TYPED", shlex.join(words))],
        cwd=tmp_path,
        env={**PLAIN, "PATH": path, "HF_HUB_CACHE": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = set(done.stdout.splitlines())
    assert expected <= found
    assert not unexpected & found


def test_the_words_that_complete_are_those_that_the_commands_take() -> None:
    taken = {
        ("export", "to"): FORMS,
        ("report", "form"): report.FORMS,
        ("compare", "form"): get_args(compare.Form),
        ("show", "form"): get_args(Format),
        ("show", "sort"): SORTS,
    }
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for (command, option), names in taken.items():
        found = group.commands[command]
        (param,) = [one for one in found.params if one.name == option]
        offered = [one.value for one in param.shell_complete(found.make_context(command, ["x"]), "")]
        assert sorted(offered) == sorted(names), (command, option)


def test_a_command_that_is_below_another_is_named_there() -> None:
    for word in ("validate", "schema", "keys"):
        assert f"Did you mean 'config {word}'?" in shown(word)


@pytest.mark.parametrize("command", ["run", "exec", "watch", "record"])
def test_help_names_every_meter(command: str) -> None:
    text = shown(command, "--help", terminal=False)
    assert [name for name in (*BUILTIN_METERS, "wall") if name not in text] == []


@pytest.mark.parametrize("command", ["run", "config keys"])
def test_help_fits_a_narrow_terminal_but_for_what_is_copied(command: str) -> None:
    text = shown(*command.split(), "--help", terminal=False, COLUMNS="40")
    options, copied, _ = text.partition("\nExamples:")
    assert copied
    assert max(map(len, options.splitlines())) <= 40


@pytest.mark.parametrize("command", all_commands())
def test_every_help_ends_with_examples_and_a_page_that_exists(command: str) -> None:
    examples = EXAMPLES[command]
    assert 2 <= len(examples.lines) <= 3
    assert (ROOT / examples.page).is_file()
    assert all(line.startswith("llem ") for line in examples.lines)


def test_every_example_is_one_of_a_command_with_options_that_it_has() -> None:
    group = get_command(app)
    for line in (line for examples in EXAMPLES.values() for line in examples.lines):
        words = shlex.split(line.partition(" < ")[0].partition(" > ")[0])[1:]
        command = group
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        # Parsed as they are typed: a flag, a value or an argument too many would raise.
        command.make_context("llem", list(words))


def test_help_is_shown_alone_and_is_no_failure() -> None:
    for arguments in ([], ["config"]):
        done = subprocess.run([*LLEM, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0
        assert "Examples:" in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("variables", "arguments", "terminal", "colored"),
    [
        ({}, [], True, True),
        ({}, [], False, False),
        ({"NO_COLOR": "1"}, [], True, False),
        ({"NO_COLOR": ""}, [], True, True),
        ({"TERM": "dumb"}, [], True, False),
        ({"FORCE_COLOR": "1"}, [], False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, [], False, False),
        ({"NO_COLOR": "1"}, ["--color", "always"], False, True),
        ({"FORCE_COLOR": "1"}, ["--color", "never"], True, False),
    ],
)
def test_colour_is_where_it_is_wanted(
    variables: dict[str, str], arguments: list[str], terminal: bool, colored: bool
) -> None:
    # An error on stderr, and the name of a key on stdout.
    for command in (["config", "keys", "temprature"], ["config", "keys", "penalty"]):
        text = shown(*command, *arguments, terminal=terminal, **variables)
        assert ("\x1b[" in text) is colored


@pytest.mark.parametrize(("program", "linked"), [("WezTerm", True), ("Apple_Terminal", False)])
def test_a_saved_result_is_a_link_where_the_terminal_makes_links(
    program: str, linked: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "with space"
    text = shown(*RUN, "-o", str(folder), TERM_PROGRAM=program)
    found = re.search(r"Saved: \x1b\]8;;(file://\S+)\x1b\\(.*?)\x1b\]8;;\x1b\\", text)
    assert (found is not None) is linked
    if found is not None:
        assert found[1].startswith(folder.as_uri())
        assert Path(found[2]).parent == folder
    else:
        assert f"Saved: {folder}" in text


def test_quiet_is_silent_but_for_data(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LLEM, *RUN, "-q", "-o", str(tmp_path)],
        env=PLAIN,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert "Energy per output token" in done.stdout
    assert list(tmp_path.glob("*/result.json"))


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", ["config keys", "config show", "doctor"])
def test_lines_fit_the_terminal(command: str, columns: int) -> None:
    text = shown(*command.split(), terminal=False, COLUMNS=str(columns))
    for line in text.splitlines():
        assert len(line) <= columns or len(line.split()) == 1, line
