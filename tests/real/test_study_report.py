"""A study of real processes ends with its report, and that shows what its events say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llenergymeasure.report.page import REPORT_FILE

pytestmark = pytest.mark.real

STUDY = """\
model: any
backend: simulated
n: 2
max_output_tokens: 8
passes: {seconds: 1.2, count: 2, prefill: 1}
repeats: {count: 1}
baseline: {seconds: 0.3}
warmup: {min_batches: 0, window: 3}
simulated: {counter_step_s: 0.02, load_s: 0.05}
sweep:
  random_seed: [1, 2]
"""


def test_a_study_leaves_a_report_with_the_windows_of_its_events(tmp_path: Path) -> None:
    file = tmp_path / "seeds.yaml"
    file.write_text(STUDY)
    command = [sys.executable, "-m", "llenergymeasure", "run", "-q", str(file), "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "seeds" / REPORT_FILE).read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert [row["label"] for row in data["rows"]] == ["random_seed=1", "random_seed=2"]
    for row, detail in zip(data["rows"], data["details"], strict=True):
        (run,) = (tmp_path / "seeds").glob(f"{row['label'].replace('_', '-').replace('=', '-')}-*/runs/1")
        told = [json.loads(line)["message"] for line in (run / "events.jsonl").read_text().splitlines()]
        blocks = [one for one in told if one.get("say") == "block_done"]
        (trace,) = detail["power"]
        loading = next(mark for mark in trace["marks"] if mark[0] == "loading")
        zero_s = told[-1]["load"]["start_ns"] / 1e9 - loading[1]
        due = {
            "pass": [one["window"] for block in blocks if block["kind"] == "full" for one in block["passes"]],
            "silence": [block[side] for block in told[-1]["blocks"] for side in ("before", "after")],
        }
        for kind, windows in due.items():
            shown = [mark[1] + zero_s for mark in trace["marks"] if mark[0] == kind]
            ends = [mark[2] + zero_s for mark in trace["marks"] if mark[0] == kind]
            assert windows
            assert shown == pytest.approx([one["start_ns"] / 1e9 for one in windows], abs=1e-4)
            assert ends == pytest.approx([one["end_ns"] / 1e9 for one in windows], abs=1e-4)
