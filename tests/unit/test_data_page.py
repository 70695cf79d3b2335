"""The queries of the page on data are run by DuckDB against a directory of results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from example_result import example_result
from virtual_study import base, run_virtually

from llenergymeasure.results.study import StudyResult

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "data.md"
QUERIES = re.findall(r"```sql[^\n]*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    where = tmp_path_factory.mktemp("data")
    folder = where / "results" / "grid"
    folder.mkdir(parents=True)
    done = run_virtually({**base(), "sweep": {"max_output_tokens": [8, 16]}}, folder)
    done.write(folder)
    example_result(energy="missing").save(where / "results")
    return where, done


def test_every_query_finds_what_the_results_say(
    study: tuple[Path, StudyResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb: Any = pytest.importorskip("duckdb", reason="needs duckdb")
    where, done = study
    monkeypatch.chdir(where)
    assert len(QUERIES) == 4
    costs, rows, requests, samples = [duckdb.sql(query).fetchall() for query in QUERIES]
    known = [one.value for row in done.rows if (one := row.energy_per_output_token) is not None]
    assert {row[2] for row in costs} == {*known}
    assert [(label, value) for label, _, _, value in rows] == [
        (row.label, value) for row, value in zip(done.rows, known, strict=True)
    ]
    assert len(requests) == 2
    assert all(seconds > 0 and tokens > 0 for _, seconds, tokens in requests)
    assert all(count > 0 and seconds > 1 for *_, count, seconds in samples)
