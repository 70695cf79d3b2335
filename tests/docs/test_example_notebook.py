"""The notebook of the examples, cell by cell in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

from llenergymeasure.results.study import StudyResult

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
# What the reader sees at the end of the cell that plots.
DRAWN = """
import json
(line,), (bars,) = axes.containers[0][0:1], axes.containers[0][2]
low_and_high = [[float(y) for _, y in one] for one in bars.get_segments()]
drawn = {"x": [*map(int, line.get_xdata())], "y": [*map(float, line.get_ydata())], "bars": low_and_high}
print("drawn:", json.dumps(drawn))
"""


@pytest.mark.timeout(400)
def test_the_notebook_measures_compares_and_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "cells.py").write_text(code + DRAWN)
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": str(tmp_path),
            "LLEM_LOCK_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=360,
    )
    assert done.returncode == 0, done.stderr
    (drawn,) = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("drawn: ")]
    rows = StudyResult.load(tmp_path / "results" / "batch-sizes").rows
    figures = [one for row in rows if (one := row.energy_per_output_token) is not None]
    assert drawn["x"] == [1, 2, 4]
    assert drawn["y"] == pytest.approx([one.value for one in figures])
    assert drawn["bars"] == [pytest.approx([one.low, one.high]) for one in figures]
    assert drawn["y"][2] < 0.5 * drawn["y"][0]
