"""docs/guides/engines.md says what the code says, and the code what the engines themselves refuse."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.generate import FACTS, SECTIONS, SETTINGS, with_tables
from pydantic import JsonValue, ValidationError

from llenergymeasure.backends import load_backend
from llenergymeasure.backends.vllm.arguments import why_refused as vllm_refusal
from llenergymeasure.config.engines import APART, BACKENDS, backend_names
from llenergymeasure.config.loader import load_experiment_config, parse_assignments
from llenergymeasure.config.suggest import is_free, keys_beside, section_of
from llenergymeasure.exceptions import ConfigError

if missing := [package for name, package in APART.items() if name not in backend_names()]:
    pytest.skip(f"the page holds the engines of {', '.join(missing)} too", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "engines.md"
CELLS = [
    (row, name, cells[name]) for table in (SETTINGS, FACTS) for row, cells in table.items() for name in cells
]


def test_the_page_holds_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python docs/generate.py"


def test_a_page_without_its_mark_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        with_tables("# Engines\n")


def test_every_engine_has_a_cell_in_every_row() -> None:
    assert set(SECTIONS) == {*BACKENDS, *APART} - {"simulated"}
    assert all(set(cells) == set(SECTIONS) for table in (SETTINGS, FACTS) for cells in table.values())


def refusal(name: str, setting: str) -> str | None:
    """Why the engine does not take a setting, by the configuration or by itself; None where it does."""
    model = "smollm2-135m" if name == "llamacpp" else "random:llama-3.2-1b"
    values: dict[str, JsonValue] = {"model": model, "backend": name, "n": 4}
    # The backend of vLLM answers only where vLLM is installed, as some answers rest on its source.
    asked = vllm_refusal if name == "vllm" else load_backend(name).why_refused
    try:
        more = ["openai.base_url=http://127.0.0.1:1"] if name == "openai" else []
        config = load_experiment_config(
            cli_overrides=values | parse_assignments([setting, *more]), environ={}
        )
        why = asked(config)
        return None if why is None else str(why)
    except (ConfigError, ValidationError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("setting", "name", "cell"), [cell for cell in CELLS if cell[0] in SETTINGS], ids=lambda text: text[:24]
)
def test_a_setting_is_taken_where_the_page_says_so_and_refused_where_it_says_no(
    setting: str, name: str, cell: str
) -> None:
    said, why = cell.split(maxsplit=1)[0].strip(",:;"), refusal(name, setting)
    assert said in {"yes", "no", "if"}
    if said == "yes":
        assert why is None
    elif said == "no":
        assert why is not None


def named_keys() -> Iterator[tuple[str, str]]:
    """Every dotted key of an engine's section that a cell or the text names in code."""
    texts = [*(cell for _, _, cell in CELLS), PAGE.read_text(encoding="utf-8")]
    for text in texts:
        yield from re.findall(rf"`(?:--set )?({'|'.join(SECTIONS)})\.([\w.]+)", text)


def test_every_option_that_the_page_names_exists() -> None:
    named = list(named_keys())
    assert named
    for section, key in named:
        top, _, rest = f"{section}.{key}".partition(".")
        known = keys_beside(top)
        field = known.get(f"{top}.{rest}")
        parents = [known.get(f"{top}.{rest.rsplit('.', cut)[0]}") for cut in range(1, rest.count(".") + 1)]
        assert field is not None or any(parent is not None and is_free(parent) for parent in parents), (
            f"{section}.{key}"
        )


def test_every_option_of_an_engine_is_described_or_speaks_for_itself() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        (part,) = re.findall(rf"^### `{name}`\n(.*?)(?=^### |\Z)", page, re.DOTALL | re.MULTILINE)
        for option, field in section.model_fields.items():
            (row,) = re.findall(rf"^\| `{option}` .*$", part, re.MULTILINE)
            assert (field.description or "") in row
        assert section_of(keys_beside(name)[name]) is section


def test_the_extras_that_the_page_names_are_the_package_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"pip install '\.\[(\w+)\]", PAGE.read_text(encoding="utf-8")))
    assert set(SECTIONS) - set(APART) <= named <= set(extras)
