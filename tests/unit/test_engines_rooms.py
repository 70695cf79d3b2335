"""An engine is a folder and a section: nothing else names one, but the two tables."""

from __future__ import annotations

import ast
from pathlib import Path

import llenergymeasure
from llenergymeasure.config.engines import BACKENDS, EngineSection, brought_section
from llenergymeasure.config.models import ENGINES

PACKAGE = Path(llenergymeasure.__file__).parent
TABLES = {"config/engines/__init__.py", "config/models.py"}
REAL = set(BACKENDS) - {"simulated"}
# The extra whose packages convert a GGUF file has the name of the engine that it is for.
EXTRAS = {("models/gguf.py", "pytorch")}


def engines_named(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return REAL & {*words, *(node.attr for node in nodes if isinstance(node, ast.Attribute))}


def test_no_file_names_an_engine_but_its_own_folder_its_section_and_the_tables() -> None:
    named = {
        (str(path.relative_to(PACKAGE)), engine)
        for path in PACKAGE.rglob("*.py")
        for engine in engines_named(path)
    }
    # That the folders do not know each other the contracts of imports hold.
    own = tuple(part for engine in REAL for part in (f"backends/{engine}/", f"config/engines/{engine}."))
    foreign = {(file, engine) for file, engine in named if file not in TABLES and not file.startswith(own)}
    assert foreign == EXTRAS
    assert {engine for file, engine in named if file == "config/engines/__init__.py"} == REAL


def test_every_backend_has_its_section_and_says_what_others_ask() -> None:
    sections = {name: ENGINES.get(name) or brought_section(name) for name in BACKENDS}
    assert EngineSection not in sections.values()
    simulated = [name for name, section in sections.items() if section and section().traits.is_simulated]
    assert simulated == ["simulated"]
    assert set(ENGINES) <= set(BACKENDS)
