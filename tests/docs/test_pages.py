"""Every command in the docs runs, and prints what its page shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pages import PAGES, ROOT, Code, Command, File, Shell, first_missing, llem_calls, parts, what_went_wrong

from llenergymeasure.cli import app
from llenergymeasure.config.loader import read_known
from llenergymeasure.config.study import OTHER_KEYS, STUDY_KEYS

pytestmark = pytest.mark.slow

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[list[str]]]:
    """What went wrong on each page. Measuring is mostly waiting, therefore several pages at once."""

    def work(name: str) -> list[str]:
        shell = Shell(tmp_path_factory.mktemp("page"))
        return list(what_went_wrong((ROOT / name).read_text(encoding="utf-8"), shell))

    with ThreadPoolExecutor(6) as pool:
        return {name: pool.submit(work, name) for name in NAMES}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_says_to_type_works(name: str, typed: Mapping[str, Future[list[str]]]) -> None:
    assert not (wrong := typed[name].result()), "\n\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_run_has_a_reason_and_options_that_exist(name: str) -> None:
    # Typer carries a click of its own, whose classes have no public name.
    known: Any = typer.main.get_command(app)
    for part in parts((ROOT / name).read_text(encoding="utf-8")):
        if isinstance(part, Command) and part.not_run is not None:
            assert part.not_run.startswith(("needs ", "takes ", "ends only")), part
            for words in llem_calls(part.text):
                command, rest = known, list(words)
                while hasattr(command, "commands"):
                    command, rest = command.commands[rest[0]], rest[1:]
                command.make_context("llem", rest)


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_marked_as_such_and_python_and_yaml_can_be_read(name: str) -> None:
    of_study = {*STUDY_KEYS, *OTHER_KEYS}
    for part in parts((ROOT / name).read_text(encoding="utf-8")):
        if isinstance(part, Code):
            assert part.language, f"a block without a language: {part.text}"
            assert part.language in {"sql", "yaml", "json", "python", "text", "dockerfile"}, part
            assert not re.search(r"^\$ ", part.text, re.MULTILINE), part.text
        if isinstance(part, Code | File) and part.language == "python":
            compile(part.text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if isinstance(part, Code | File) and part.language == "yaml":
            content = yaml.safe_load(part.text)
            if isinstance(content, dict) and "model" in content:
                of_experiment = {key: value for key, value in content.items() if key not in of_study}
                _, unknown = read_known(None, content=of_experiment, environ={}, user_config=Path("none"))
                assert not unknown


@pytest.mark.parametrize(
    ("shown", "said", "missing"),
    [
        (("Energy  ≈ 72 (48 to 141) mJ", "…", "Tokens  12"), "Energy  3 J\nIdle\nTokens  9\n", None),
        (("Energy  3 J", "…", "Tokens  12"), "Energy  3 J\nTokens  9\n", None),
        (("Tokens  12", "Energy  3 J"), "Energy  3 J\nTokens  9\n", "Energy  3 J"),
        (("  timing*  ± 0.2", "✗ nvml  no"), "  timing  ± 0.3\n✓ nvml  yes", None),
        (("0 of 12 runs: a, begins",), "3 of 9 runs: a, begins", None),
        (("Saved: results/study",), "Saved: results/other", "Saved: results/study"),
    ],
)
def test_figures_may_differ_and_words_may_not(shown: tuple[str, ...], said: str, missing: str | None) -> None:
    assert first_missing(shown, said) == missing


def test_a_page_is_read_as_its_reader_reads_it(tmp_path: Path) -> None:
    page = (
        '<!-- setup: echo before > a.txt -->\n```python title="b.py"\nprint(open("a.txt").read())\n```\n'
        "```console\n$ python b.py \\\n    x\nbefore\n$ cat a.txt\nafter\n```\n"
        "<!-- not run: needs a GPU -->\n```console\n$ false\n```\n"
        "<!-- exit code 3 -->\n```console\n$ exit 3\n```\n```console\n$ exit 4\n```\n"
    )
    first, second = what_went_wrong(page, Shell(tmp_path))
    assert "did not print the line\nafter" in first
    assert "ended with 4, not 0" in second
