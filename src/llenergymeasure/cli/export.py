"""`llem export`: results in a form that another program reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import printable, reader_may_leave, say, talk
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.report.export import FORMS, TABLES, TEXT_FORMS, Export, log_to_mlflow, write_parquet
from llenergymeasure.report.found import label_kinds, places, read
from llenergymeasure.results.find import find_all
from llenergymeasure.results.folder import aside


def export(
    names: Sequence[Path],
    form: str,
    *,
    directory: Path | None,
    output: str | None,
    is_long: bool,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        if form not in FORMS:
            raise ConfigError(
                f"--to {form} is not a form that llem writes", hint=f"one of: {', '.join(FORMS)}"
            )
        if is_long and form not in TABLES:
            raise ConfigError(f"--long is for {', '.join(sorted(TABLES))}, not for {form}")
        found = places(find_all(names, directory, _skipped), _skipped)
        chosen = Export(read(found, _skipped), label_kinds(found), is_long=is_long, skip=_skipped)
        if form == "mlflow":
            talk(f"Logged: {log_to_mlflow(chosen, output)} runs")
        elif form == "parquet":
            if output is None:
                raise ConfigError("a Parquet file is not text", hint="name it: -o results.parquet")
            _aside(Path(output), lambda path: write_parquet(chosen, path))
        elif output is None:
            with reader_may_leave():
                TEXT_FORMS[form](chosen, _Escaped())
        else:

            def write(path: Path) -> None:
                with path.open("w", encoding="utf-8", newline="") as to:
                    TEXT_FORMS[form](chosen, to)

            _aside(Path(output), write)


def _skipped(why: str) -> None:
    talk(f"Skipped: {why}")


def _aside(path: Path, write: Callable[[Path], None]) -> None:
    """The whole file or the one that was there before. ResultError where it can't be written."""
    try:
        with aside(path) as part:
            write(part)
            part.replace(path)
    except OSError as error:
        raise ResultError(
            f"{path} can't be written: {error.strerror or error}", hint="choose another -o"
        ) from error
    say(f"Saved: {path}")


class _Escaped:
    """Stdout, where no text of a result steers the terminal."""

    def write(self, text: str, /) -> None:
        sys.stdout.write(printable(text, keep="\n\t"))
