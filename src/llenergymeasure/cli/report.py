"""`llem report`: where does the report go, and in which form?"""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_lines, talk
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.report.content import content
from llenergymeasure.report.markdown import as_markdown
from llenergymeasure.report.page import REPORT_FILE, as_html, write
from llenergymeasure.results.find import find_all

FORMS = ("html", "md")


def report(
    names: Sequence[Path],
    output: Path | None,
    *,
    directory: Path | None,
    form: str,
    opened: bool,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        if form not in FORMS:
            raise ConfigError(f"--format {form}: one of {', '.join(FORMS)}")
        if opened and form == "md":
            raise ConfigError("--open shows an HTML file in the browser", hint="leave out --format md")
        paths = list(find_all(names, directory, _skipped))
        found = content(paths)
        text = as_html(found) if form == "html" else as_markdown(found)
        if form == "md" and output is None:
            print_lines(text.splitlines())
            return
        file = output or _beside(paths)
        write(text, file, own=output is None)
        talk(f"Saved: {file}")
        if opened and not webbrowser.open(file.resolve().as_uri()):
            talk("No browser could be started; open the file in one")


def _skipped(why: str) -> None:
    talk(f"Skipped: {why}")


def _beside(paths: Sequence[Path]) -> Path:
    """In the folder that was named; for a file in its folder, for several paths in the working directory."""
    if len(paths) > 1:
        return Path(REPORT_FILE)
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / REPORT_FILE
