"""A file of each schema that llem ever wrote is kept in tests/data, and is read for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.exceptions import ResultError
from llenergymeasure.results.models import RESULT_SCHEMA_VERSION, ExperimentResult
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE, STUDY_SCHEMA_VERSION, StudyResult
from llenergymeasure.results.windows import WindowsResult, load_any

DATA = Path(__file__).parents[1] / "data"
Load = Callable[[Path], ExperimentResult | WindowsResult | StudyResult]
NEWEST: dict[str, tuple[Load, str, str]] = {
    "result": (ExperimentResult.load, RESULT_FILE, RESULT_SCHEMA_VERSION),
    "windows": (WindowsResult.load, RESULT_FILE, RESULT_SCHEMA_VERSION),
    "command": (load_any, RESULT_FILE, RESULT_SCHEMA_VERSION),
    "study": (StudyResult.load, STUDY_FILE, STUDY_SCHEMA_VERSION),
}
# Of the first schema of results the whole folder of a run is kept; windows came with the second.
NAMED = {("result", 1): "run-schema-1"}
FIRST = {"windows": 2, "command": 2}


def changed(tmp_path: Path, kind: str, **changes: Any) -> Path:
    _, name, newest = NEWEST[kind]
    data = json.loads((DATA / f"{kind}-schema-{newest}" / name).read_text())
    path = tmp_path / name
    path.write_text(json.dumps({**data, **changes}))
    return path


def by_llem(kind: str, version: str) -> dict[str, Any]:
    if kind == "study":
        return {"llem": version}
    _, name, newest = NEWEST[kind]
    data = json.loads((DATA / f"{kind}-schema-{newest}" / name).read_text())
    return {"environment": {**data["environment"], "llem": version}}


@pytest.mark.parametrize("kind", NEWEST)
def test_a_file_of_every_schema_loads(kind: str) -> None:
    load, name, newest = NEWEST[kind]
    for version in range(FIRST.get(kind, 1), int(newest) + 1):
        folder = DATA / NAMED.get((kind, version), f"{kind}-schema-{version}")
        assert json.loads((folder / name).read_text())["schema_version"] == str(version)
        assert load(folder).schema_version == newest


@pytest.mark.parametrize("kind", NEWEST)
def test_a_newer_schema_is_refused_with_the_version_to_install(kind: str, tmp_path: Path) -> None:
    load, _, newest = NEWEST[kind]
    later = str(int(newest) + 1)
    path = changed(tmp_path, kind, schema_version=later, **by_llem(kind, "99.1.0.dev2"))
    with pytest.raises(ResultError, match=f"schema_version '{later}'") as caught:
        load(path)
    assert caught.value.hint == "pip install 'llenergymeasure>=99.1.0'"


@pytest.mark.parametrize("kind", NEWEST)
def test_a_key_that_a_later_version_added_is_not_taken_for_a_changed_file(kind: str, tmp_path: Path) -> None:
    load = NEWEST[kind][0]
    with pytest.raises(ResultError, match=r"llem v99\.1 wrote it: added_later") as caught:
        load(changed(tmp_path, kind, added_later=1, **by_llem(kind, "99.1")))
    assert caught.value.hint == "pip install 'llenergymeasure>=99.1'"
    with pytest.raises(ResultError, match="added_later") as caught:
        load(changed(tmp_path, kind, added_later=1))
    assert "pip" not in str(caught.value.hint)


@pytest.mark.parametrize("version", [0, "0", "-1", 2, None, "x", "1.5"])
@pytest.mark.parametrize("kind", NEWEST)
def test_a_schema_that_never_was_is_refused(kind: str, version: object, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="schema that llem never wrote"):
        NEWEST[kind][0](changed(tmp_path, kind, schema_version=version))
