"""A headless Chromium, and reports that are opened in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llenergymeasure.report.content import content
from llenergymeasure.report.page import as_html, write

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
READY = "html[data-ready=yes]"


@contextmanager
def chromium(driver: Any) -> Iterator[Any]:
    # Root, as in a container, has no sandbox.
    found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    try:
        yield found
    finally:
        found.close()


@contextmanager
def opened(browser: Any, file: Path, **how: Any) -> Iterator[Any]:
    """The page once it is drawn. On leaving, it has neither complained nor asked anybody for anything."""
    said: list[str] = []
    with browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how}) as context:
        page = context.new_page()
        page.on("console", lambda one: said.append(f"console: {one.text}"))
        page.on("pageerror", lambda one: said.append(f"error: {one}"))
        page.on("dialog", lambda one: said.append(f"dialog: {one.message}"))
        page.on("request", lambda one: said.append(f"asked for {one.url}"))
        page.goto(file.as_uri())
        page.wait_for_selector(READY)
        yield page
        assert said == [f"asked for {file.as_uri()}"]


def report(paths: Sequence[Path], file: Path) -> Path:
    write(as_html(content(paths)), file, own=False)
    return file
