"""The pages that are made from code are up to date, and every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.generate import CLI_PAGE, RESULTS_PAGE, cli_page, results_page
from pages import PAGES, ROOT

from llenergymeasure.cli._help import EXAMPLES

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize(("page", "made"), [(CLI_PAGE, cli_page), (RESULTS_PAGE, results_page)])
def test_a_page_that_is_made_from_code_is_up_to_date(page: Path, made: Callable[[], str]) -> None:
    assert page.read_text(encoding="utf-8") == made(), "run: python docs/generate.py"


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def pages_of(nav: Any) -> Iterator[str]:
    for one in nav if isinstance(nav, list) else nav.values():
        if isinstance(one, str):
            yield one
        else:
            yield from pages_of(one)


def test_every_page_is_in_the_menu_and_says_what_its_reader_can_do() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = {ROOT / "docs" / name for name in pages_of(site["nav"])}
    assert named == set(PAGES) - {ROOT / "README.md"}
    for page in named - {ROOT / "docs" / "index.md"}:
        text = page.read_text(encoding="utf-8").split("\n\n")
        assert text[0].startswith("# "), page
        assert text[1].startswith("After this page "), page


def test_the_help_of_each_command_names_a_page() -> None:
    assert all((ROOT / examples.page) in PAGES for examples in EXAMPLES.values())


def test_what_a_reader_sees_comes_from_the_site_alone() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in site
    assert "repo_url" not in site
    for page in PAGES[1:]:
        assert not re.search(
            r"!\[[^]]*\]\(http|<(script|img|iframe)|^```mermaid", page.read_text(), re.MULTILINE
        )
