"""Results as data frames, of whichever library is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from example_result import example_result
from recordings import at, made, seen_by
from test_schema_examples import DATA

from llenergymeasure.exceptions import ResultError
from llenergymeasure.results.frames import LIBRARIES, frame
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.study import StudyResult
from llenergymeasure.simulation.waveform import Waveform

SHOWN = """
import json, sys
{first}
from llenergymeasure import ExperimentResult, StudyResult, WindowsResult
for kind, path in ((ExperimentResult, "result-schema-2"), (WindowsResult, "command-schema-2"),
                   (StudyResult, "study-schema-1")):
    found = kind.load(f"{data}/{{path}}").to_frame()
    print(json.dumps([type(found).__module__.split(".")[0], list(found.shape),
                      [float(one) for one in found["energy_per_output_token_j"]]]))
"""


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_is_of_the_library_that_the_program_uses(library: str) -> None:
    pytest.importorskip(library, reason=f"needs {library}")
    program = SHOWN.format(first=f"import {library}", data=DATA)
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    result, windows, study = map(json.loads, shown.stdout.splitlines())
    assert {result[0], windows[0], study[0]} == {library}
    assert (result[1][0], windows[1][0], study[1][0]) == (1, 1, 2)
    assert result[1][1] == windows[1][1]
    assert result[2] == [ExperimentResult.load(DATA / "result-schema-2").energy.per_output_token.value]


def test_without_a_library_both_are_named() -> None:
    with pytest.raises(ResultError, match="needs absent_one or absent_two") as caught:
        frame([{}], libraries=("absent_one", "absent_two"))
    assert "pip install pandas" in str(caught.value.hint)


def test_a_notebook_shows_a_study_and_windows_with_their_text_escaped() -> None:
    study = StudyResult.load(DATA / "study-schema-1")
    row = study.rows[0].model_copy(update={"label": "<script>alert(1)</script>"})
    shown = study.model_copy(update={"rows": (row,), "name": "<b>"})._repr_html_()
    assert shown.count("<tr>") == 2
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "simulated: no model ran" in shown
    windows = made(seen_by(Waveform(100.0), poll_ms=50), [at("<script>", 20, 5)])
    assert "<script>" not in windows._repr_html_()
    assert "&lt;script&gt;" in windows._repr_html_()


def test_a_frame_of_a_result_without_energy_has_gaps_and_not_zeros() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    found = example_result(energy="missing").to_frame()
    assert pandas.isna(found["energy_total_j"][0])
    assert found["output_tokens_per_second"][0] > 0
