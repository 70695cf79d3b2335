"""What a page of the docs says to type, and what happens when it is typed.

A block marked `console` holds commands after `$ ` and what they print. A block with a title is a file beside
them. Comments in the page, which readers do not see, steer what follows:

    <!-- setup: COMMANDS -->     typed before
    <!-- not run: REASON -->     the next block is only checked for options and files that exist
    <!-- exit code N -->         how the next block ends

Where a page measures a server, a stub answers in its place.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stub_process import stub_server

ROOT = Path(__file__).parents[2]
_SERVER = "http://127.0.0.1:8000"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_PARTS = re.compile(
    r"^<!-- (?P<key>setup|not run|exit code):? (?P<value>.*?)-->$"
    r"|^```(?P<language>\w*)(?: title=\"(?P<title>.+?)\")?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Verdicts on a machine, ids of results, which begin with their moment, and figures.
_VARYING = re.compile(r"^[✓✗!] |\d{8}T\d{6}-[\w.-]+|[≈±]? ?\d[\d.,:]*")


@dataclass(frozen=True, slots=True)
class Command:
    text: str
    output: tuple[str, ...]
    not_run: str | None
    exit_code: int


@dataclass(frozen=True, slots=True)
class File:
    name: str
    text: str
    not_run: str | None

    @property
    def language(self) -> str:
        return {".py": "python"}.get(Path(self.name).suffix, Path(self.name).suffix[1:])


@dataclass(frozen=True, slots=True)
class Code:
    """A block that is neither typed nor a file."""

    language: str
    text: str


def parts(page: str) -> Iterator[Command | File | Code]:
    """What a page says, in its order."""
    steer: dict[str, str] = {}
    for part in _PARTS.finditer(page):
        if key := part["key"]:
            if key == "setup":
                yield Command(part["value"].strip(), (), None, 0)
            else:
                steer[key] = " ".join(part["value"].split())
            continue
        language, text = part["language"], part["text"]
        if title := part["title"]:
            yield File(title, text, steer.get("not run"))
        elif language == "console":
            yield from _commands(text, steer.get("not run"), int(steer.get("exit code", 0)))
        else:
            yield Code(language, text)
        steer = {}


def _commands(text: str, not_run: str | None, exit_code: int) -> Iterator[Command]:
    # A command goes on after a backslash at the end of its line.
    for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = shown.rstrip("\n").split("\n")
        end = next(number for number, line in enumerate(lines, start=1) if not line.endswith(" \\"))
        yield Command("\n".join(lines[:end]), tuple(lines[end:]), not_run, exit_code)


def llem_calls(command: str) -> Iterator[Sequence[str]]:
    """The words after each `llem` of a line of a shell."""
    words: list[str] = []
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in (*lexer, ";"):
        if set(word) <= set("();<>|&"):
            if words[:1] == ["llem"]:
                yield words[1:]
            words = []
        else:
            words.append(word)


class Shell:
    """A folder of its own to type in, where `llem` is the one under test and nobody's settings apply."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        binaries = folder / "bin"
        for made in (self.folder, binaries, folder / "home"):
            made.mkdir()
        for name, call in {"llem": "-m llenergymeasure", "python": ""}.items():
            script = binaries / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call} "$@"\n')
            script.chmod(0o755)
        (self.folder / "examples").symlink_to(ROOT / "examples")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LLEM_")},
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home"),
            # The small model is converted once for all tests, which takes a minute.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "LLEM_LOCK_DIR": str(folder / "home"),
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def type(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        return done.returncode, done.stdout


def what_went_wrong(page: str, shell: Shell) -> Iterator[str]:
    """Types what the page says. Yields what did not end or print as the page has it."""
    with ExitStack() as stack:
        if _SERVER in page:
            page = page.replace(_SERVER, stack.enter_context(stub_server(first_s=0.05, each_s=0.01)))
        yield from _typed(page, shell)


def _typed(page: str, shell: Shell) -> Iterator[str]:
    for part in parts(page):
        if isinstance(part, File):
            file = shell.folder / part.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(part.text)
            if file.suffix == ".yaml" and part.not_run is None:
                code, said = shell.type(f"llem config validate {shlex.quote(part.name)}")
                if code:
                    yield f"{part.name}: {said}"
        elif isinstance(part, Command) and part.not_run is None:
            code, said = shell.type(part.text)
            if code != part.exit_code:
                yield f"$ {part.text}\nended with {code}, not {part.exit_code}:\n{said}"
            elif (line := first_missing(part.output, said)) is not None:
                yield f"$ {part.text}\ndid not print the line\n{line}\nbut:\n{said}"


def first_missing(shown: Sequence[str], said: str) -> str | None:
    """The first line of the page that was not printed, in its order; None where all were.

    Compared is the first cell of a line, without figures: they differ from run to run and from machine to
    machine. After … anything may follow.
    """
    printed = iter([_shape(line) for line in said.splitlines()])
    for line in shown:
        begins, elided, _ = line.strip().partition("…")
        shape = _shape(begins)
        if (shape or not elided) and not any(
            one.startswith(shape) if elided else one == shape for one in printed
        ):
            return line
    return None


def _shape(line: str) -> str:
    return _VARYING.sub("#", re.split(r" {2,}", line.strip())[0].rstrip("*"))
