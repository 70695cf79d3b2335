"""The examples of the guide, as a reader runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llenergymeasure
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.windows import WindowsResult

EXAMPLES = Path(__file__).parents[2] / "examples" / "own-code"


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = Path(llenergymeasure.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(source), "LLEM_LOCK_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_transformers_loop_costs_joules_per_token(tmp_path: Path) -> None:
    done = run(tmp_path, str(EXAMPLES / "transformers_loop.py"), "results")
    assert "generate: 6 blocks" in done.stdout
    (folder,) = (tmp_path / "results").iterdir()
    result = WindowsResult.load(folder)
    (generate,) = [one for one in result.windows if one.name == "generate"]
    assert generate.output_tokens == 6 * 16
    assert generate.per_output_token.value is not None
    assert generate.per_output_token.value > 0
    assert generate.per_output_token.low is not None


def test_an_async_client_counts_overlapping_requests_once(tmp_path: Path) -> None:
    done = run(tmp_path, str(EXAMPLES / "async_client.py"))
    assert "request: 20 windows, some overlap: their time counts once" in done.stdout
    assert "Tokens" in done.stdout


class Shell:
    """What IPython offers an extension, as far as this one uses it."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.magics: dict[str, Callable[[str, str], object]] = {}

    def register_magic_function(self, function: Callable[[str, str], object], magic_kind: str) -> None:
        assert magic_kind == "cell"
        self.magics[function.__name__] = function

    def run_cell(self, text: str) -> SimpleNamespace:
        error = None
        try:
            exec(text, self.names)
        except Exception as raised:  # noqa: BLE001  a cell may raise anything
            error = raised
        return SimpleNamespace(error_before_exec=None, error_in_exec=error)


def test_a_notebook_measures_its_cells() -> None:
    shell, results = Shell(), []
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    for text in ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]:
        first, _, rest = text.partition("\n")
        if first.startswith("%load_ext "):
            sys.modules[first.split()[1]].load_ipython_extension(shell)
        elif first.startswith("%%"):
            magic, _, line = first[2:].partition(" ")
            results.append(shell.magics[magic](line, rest))
        else:
            *most, last = text.splitlines()
            shell.run_cell("\n".join(most))
            results.append(eval(last, shell.names))
    cell, windows = results
    assert isinstance(cell, WindowsResult)
    assert [(one.name, one.count, one.silent) for one in cell.windows] == [("squares", 1, True)]
    broken = shell.magics["llem"]("breaks --window", "1 / 0")
    assert isinstance(broken, WindowsResult)
    assert [(one.failed, one.occurrences[0].error) for one in broken.windows] == [(1, "ZeroDivisionError")]
    with pytest.raises(ConfigError, match="not understood"):
        shell.magics["llem"]("two names", "pass")
    assert isinstance(windows, WindowsResult)
    assert [one.name for one in windows.windows] == ["100000", "200000"]


def test_two_scripts_of_which_one_does_more_are_measured_in_turns(tmp_path: Path) -> None:
    work, more = (f"{sys.executable} {EXAMPLES / name}" for name in ("work.py", "more_work.py"))
    done = run(
        tmp_path, "-m", "llenergymeasure", "exec", "-n", "10", "--json", "--vs", more, "--", *work.split()
    )
    energy, seconds, *_ = json.loads(done.stdout)["comparison"]["ratios"]
    assert energy["method"]["replicates"] == [10, 10]
    # A loaded machine adds scatter, and the interval has it; on a board of known power 5 % are told apart.
    for one in (energy, seconds):
        assert one["ratio"]["low"] - 0.05 <= 1.05 <= one["ratio"]["high"] + 0.05
