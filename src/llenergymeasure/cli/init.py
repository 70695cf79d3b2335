"""`llem init`: which three answers make a first experiment that fits this machine?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import say, say_saved, strong, talk
from llenergymeasure.cli.config import check
from llenergymeasure.doctor.draft import Machine, draft, look, why_no_engine
from llenergymeasure.exceptions import ConfigError, LLEMError
from llenergymeasure.models.resolve import resolve
from llenergymeasure.results.folder import OF_THE_DISK

KINDS = ("experiment", "study")


def init(
    path: Path | None,
    *,
    model: str | None,
    backend: str | None,
    study: bool,
    yes: bool,
    force: bool,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        if not yes and (sys.stdin is None or not sys.stdin.isatty()):
            raise ConfigError(
                "there is no terminal to answer questions on", hint="--yes takes what fits this machine"
            )
        if path is not None:
            _check_place(path, force=force)
        machine = look()
        if not yes:
            talk(f"This machine: {machine.description}")
        engine = backend or _ask("Engine", machine.engines, yes=yes, why_not=_no_engine)
        if backend is not None and (why := _no_engine(backend)) is not None:
            raise ConfigError(f"the backend {backend} can't run here: {why}", hint=_ways(machine))
        named = model or _ask("Model", machine.models, yes=yes, why_not=_no_model)
        if model is not None:
            resolve(model)
        kind = KINDS[1] if study else _ask("One experiment, or a study", KINDS, yes=yes, why_not=_no_kind)
        place = path or Path(f"{kind}.yaml")
        _check_place(place, force=force)
        text = draft(machine, model=named, backend=engine, study=kind == KINDS[1], name=str(place))
        _write(place, text, force=force)
        say_saved(place)
        say(f"Next: llem run {place} --dry-run")


def _ask(what: str, choices: Sequence[str], *, yes: bool, why_not: Callable[[str], str | None]) -> str:
    """The answer, or the first choice where nothing is typed."""
    first = choices[0]
    if yes:
        return first
    talk(f"{strong(what)} ({', '.join(choices[:8])}{', …' if len(choices) > 8 else ''})")
    while True:
        print(f"  [{first}] ", end="", file=sys.stderr, flush=True)
        try:
            answer = input().strip() or first
        except EOFError as error:
            raise ConfigError("the questions were not answered", hint="--yes answers them") from error
        if (why := why_not(answer)) is None:
            return answer
        talk(f"  {why}")


def _no_engine(name: str) -> str | None:
    return why_no_engine(name, "random:gpt2")


def _no_model(name: str) -> str | None:
    try:
        resolve(name)
    except LLEMError as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return None


def _no_kind(name: str) -> str | None:
    return None if name in KINDS else f"{name!r} is neither: {' or '.join(KINDS)}"


def _ways(machine: Machine) -> str:
    return f"can run here: {', '.join(machine.engines)}; llem doctor says what the others need"


def _check_place(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint=f"name a file: {path / 'experiment.yaml'}")
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(
            f"{path} would not be taken for a YAML file", hint=f"llem init {path.with_suffix('.yaml')}"
        )
    if os.path.lexists(path) and not force:
        raise ConfigError(f"{path} exists", hint=f"another name, or to replace it: llem init {path} --force")


def _write(path: Path, text: str, *, force: bool) -> None:
    """Aside, checked as any other file would be, then in its place."""
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.yaml")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            if wrong := check(part)[1]:
                raise ConfigError(f"{path} would not be valid:\n" + "\n".join(wrong))
            if not force:
                # A rename would replace what has come since.
                path.open("x").close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists", hint="another name, or --force to replace it") from error
    except OSError as error:
        way = "name a place where you may write" if path.parent.exists() else f"mkdir -p {path.parent}"
        if error.errno in OF_THE_DISK:
            way = "free space there, or name a file on another disk"
        raise ConfigError(f"{path} can't be written: {error.strerror}", hint=way) from error
