"""How a study runs, fails, goes on and comes to its end."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from benchmarks.boards.scenario import Board, Scenario, write_scenario
from pydantic import JsonValue
from virtual_study import VirtualExecutor, base, planned, run_virtually, sprinkled

from llenergymeasure.analysis.cheapest import cheapest_lines
from llenergymeasure.cli.list import entries
from llenergymeasure.exceptions import BackendError, ConfigError, ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.rows import study_rows
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.study_table import account as missing
from llenergymeasure.results.study_table import cells, marks, table
from llenergymeasure.study import ledger
from llenergymeasure.study.account import account
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed
from llenergymeasure.study.run import How, Step
from llenergymeasure.study.task import Task

BOARDS = Path(__file__).parents[2] / "benchmarks/boards"
SEEDS: list[JsonValue] = [1, 2, 3]
SCATTERS: JsonValue = {"simulated.run_scatter": [0.0, 0.08]}


def of(*seeds: JsonValue, count: int = 1, **execution: JsonValue) -> dict[str, JsonValue]:
    return {
        **base(repeats={"count": count}),
        "sweep": {"random_seed": list(seeds)},
        "execution": {"retries": 1, **execution},
    }


def test_every_experiment_gets_a_result_like_that_of_a_single_run(tmp_path: Path) -> None:
    steps: list[Step] = []
    study = run_virtually(of(*SEEDS, count=3), tmp_path, steps=steps)
    assert [row.outcome for row in study.rows] == ["done"] * 3
    assert study.finished
    assert not study.failed
    for row in study.rows:
        assert row.folder is not None
        result = ExperimentResult.load(tmp_path / row.folder)
        assert len(result.measured) == row.runs == 3
        assert row.energy_per_output_token == result.energy.per_output_token
        assert row.energy_per_output_token.low is not None
        assert row.varied == {"random_seed": result.config.random_seed}
    assert (steps[-1].done, steps[-1].planned) == (9, 9)
    assert [one.left_s is None for one in steps[:3]] == [True, False, False]


def test_repeats_of_different_experiments_alternate(tmp_path: Path) -> None:
    executor = VirtualExecutor()
    run_virtually(of(1, 2, count=2), tmp_path, executor=executor)
    assert [number for _, number in executor.started] == [1, 1, 2, 2]
    sequential = VirtualExecutor()
    run_virtually(of(1, 2, count=2, order="sequential"), tmp_path / "b", executor=sequential)
    assert [number for _, number in sequential.started] == [1, 2, 1, 2]


def test_a_target_asks_for_more_repeats_of_the_experiment_that_scatters(tmp_path: Path) -> None:
    study = {
        **base(
            repeats={"count": 3, "target": 0.02, "max": 6}, passes={"seconds": 5.0, "count": 1, "prefill": 0}
        ),
        "sweep": SCATTERS,
    }
    found = run_virtually(study, tmp_path)
    assert [row.runs for row in found.rows] == [3, 6]


@pytest.mark.parametrize("kind", ["crash", "hang", "error", "unwritten"])
def test_a_run_that_fails_by_chance_is_tried_again(tmp_path: Path, kind: str) -> None:
    def once(task: Task, attempt: int) -> str | None:
        return kind if attempt == 1 and task.number == 2 else None

    study = run_virtually(of(1, count=3), tmp_path, executor=VirtualExecutor(fault=once))
    (row,) = study.rows
    assert (row.outcome, row.runs, row.failures) == ("done", 3, ())
    failed = [one for one in ledger.read(tmp_path) if isinstance(one, Failed)]
    assert [(one.repeat, one.final) for one in failed] == [(2, False)]


@pytest.mark.parametrize("kind", ["oom", "config"])
def test_what_would_fail_again_is_not_tried_again(tmp_path: Path, kind: str) -> None:
    executor = VirtualExecutor(fault=lambda task, _: kind if task.number == 2 else None)
    study = run_virtually(of(1, count=3), tmp_path, executor=executor)
    (row,) = study.rows
    assert (row.outcome, row.runs) == ("partial", 2)
    assert [(one.repeat, one.attempts, one.kind) for one in row.failures] == [(2, 1, kind)]
    assert row.folder is not None
    outcomes = [run.outcome for run in ExperimentResult.load(tmp_path / row.folder).runs]
    assert sorted(outcomes) == ["failed", "measured", "measured"]


def test_an_experiment_that_fails_takes_no_other_away(tmp_path: Path) -> None:
    def fault(task: Task, _attempt: int) -> str | None:
        return "crash" if task.config.random_seed == 2 else None

    remarks: list[str] = []
    study = run_virtually(of(*SEEDS), tmp_path, executor=VirtualExecutor(fault=fault), remarks=remarks)
    assert [row.outcome for row in study.rows] == ["done", "failed", "done"]
    assert study.rows[1].failures[0].attempts == 2
    assert "SIGSEGV" in study.rows[1].failures[0].message
    assert len(remarks) == 2


def test_a_study_that_stopped_counts_the_runs_of_experiments_that_it_did_not_end(tmp_path: Path) -> None:
    executor = VirtualExecutor(fault=lambda task, _: "crash" if task.config.random_seed == 2 else None)
    content = of(1, 2, 3, count=2, stop_after_failures=1, retries=0)
    study = run_virtually(content, tmp_path, executor=executor)
    assert [(row.outcome, row.runs) for row in study.rows] == [("pending", 1), ("failed", 0), ("pending", 0)]
    assert [line.partition(": ")[2] for line in missing(study) if "seed=2" not in line] == [
        "1 of 2 runs so far",
        "not run yet",
    ]


def test_too_many_failures_in_a_row_stop_the_study_and_it_goes_on_once_they_are_mended(
    tmp_path: Path,
) -> None:
    seeds: list[JsonValue] = list(range(1, 7))
    content = of(*seeds, stop_after_failures=2, retries=0)
    broken = VirtualExecutor(fault=lambda *_: "crash")
    study = run_virtually(content, tmp_path, executor=broken)
    assert len(broken.started) == 2
    assert [row.outcome for row in study.rows] == ["failed"] * 2 + ["pending"] * 4
    assert not study.finished
    (closed,) = [one for one in ledger.read(tmp_path) if isinstance(one, Closed)]
    assert "failures" in closed.why
    mended = VirtualExecutor()
    study = run_virtually(content, tmp_path, executor=mended, how=How(resume=True, retry_failed=True))
    assert len(mended.started) == 6
    assert [row.outcome for row in study.rows] == ["done"] * 6


def test_failures_stay_failures_unless_they_are_to_be_tried_again(tmp_path: Path) -> None:
    content = of(1, 2, retries=0)
    run_virtually(content, tmp_path, executor=VirtualExecutor(fault=lambda *_: "crash"))
    again = VirtualExecutor()
    study = run_virtually(content, tmp_path, executor=again, how=How(resume=True))
    assert again.started == []
    assert [row.outcome for row in study.rows] == ["failed", "failed"]


def test_a_run_that_is_mended_joins_the_result_of_its_experiment(tmp_path: Path) -> None:
    broken = VirtualExecutor(fault=lambda task, _: "oom" if task.number == 2 else None)
    study = run_virtually(of(1, count=3), tmp_path, executor=broken)
    assert (study.rows[0].outcome, study.rows[0].runs) == ("partial", 2)
    study = run_virtually(of(1, count=3), tmp_path, how=How(resume=True, retry_failed=True))
    (row,) = study.rows
    assert (row.outcome, row.runs, row.failures) == ("done", 3, ())
    result = ExperimentResult.load(tmp_path / str(row.folder))
    assert [run.outcome for run in result.runs] == ["measured"] * 3
    assert result.origins["model"] == "study"


def test_what_runs_remark_is_said_once(tmp_path: Path) -> None:
    remarks: list[str] = []
    executor = VirtualExecutor(remarks=("97.5 % were busy", "too warm"))
    run_virtually(of(1, 2, count=2), tmp_path, executor=executor, remarks=remarks)
    executor.remarks = ("12 % were busy",)
    run_virtually(of(1, 2, 3), tmp_path / "other", executor=executor, remarks=remarks)
    assert remarks == [
        f"random_seed=1: {said}" for said in ("97.5 % were busy", "too warm", "12 % were busy")
    ]


def test_the_way_out_of_a_failure_is_said(tmp_path: Path) -> None:
    study = {**of(1), "simulated": {"fault": {"kind": "oom", "at": "open"}}}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    done = llem("run", str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if "(oom)" in line]
    assert "lower the batch size" in line


def test_runs_side_by_side_take_a_gpu_each(tmp_path: Path) -> None:
    boards = tuple(Board(f"GPU-{number}", 50.0) for number in (1, 2))
    write_scenario(tmp_path / "boards.json", Scenario(time.monotonic_ns(), boards))
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({**of(1, 2, 3, parallel="per-gpu"), "name": "study"}))
    done = llem(
        *("run", str(path), "--output", str(tmp_path)),
        PYTHONPATH=os.pathsep.join([str(BOARDS / "pynvml"), os.environ.get("PYTHONPATH", "")]),
        LLEM_SIMULATED_NVML=str(tmp_path / "boards.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "neighbours warm each other" in done.stderr
    rows = StudyResult.load(tmp_path / "study").rows
    results = [ExperimentResult.load(tmp_path / "study" / str(row.folder)) for row in rows]
    assert len(results) == 3
    records = [one for one in ledger.read(tmp_path / "study") if isinstance(one, Begun | Done)]
    # Two begin before the first ends, and the third waits for a GPU that is free again.
    assert [type(one) for one in records[:3]] == [Begun, Begun, Done]
    at_once = 0
    for one in records:
        at_once += 1 if isinstance(one, Begun) else -1
        assert at_once <= 2


def test_runs_side_by_side_without_a_gpu_are_refused_before_they_are_shown(tmp_path: Path) -> None:
    write_scenario(tmp_path / "boards.json", Scenario(time.monotonic_ns(), ()))
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(of(1, parallel="per-gpu")))
    for more in ([], ["--dry-run"]):
        done = llem(
            *("run", str(path), "--output", str(tmp_path / "out"), *more),
            PYTHONPATH=os.pathsep.join([str(BOARDS / "pynvml"), os.environ.get("PYTHONPATH", "")]),
            LLEM_SIMULATED_NVML=str(tmp_path / "boards.json"),
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "no NVIDIA GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_what_only_names_and_why_there_are_fewer_repeats(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    passes: JsonValue = {"seconds": 1.0, "count": 1, "prefill": 0, "budget": {"seconds": 1.5}}
    path.write_text(json.dumps({**of(1, 2, 3, count=3), "backend": "simulated", "passes": passes}))
    dry = ("run", str(path), "--output", str(tmp_path / "out"), "--dry-run", "--only")
    shown = llem(*dry, "random_seed=[13]").stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [["random_seed=1", "2"], ["random_seed=3", "2"]]
    assert any("2 experiments, 4 runs" in line for line in shown)
    assert any(line.startswith("random_seed=1, random_seed=3: passes.budget") for line in shown)
    assert llem(*dry, "random_seed=4").returncode == 2


class Unreachable(VirtualExecutor):
    """A cluster that is not there."""

    def __enter__(self) -> Self:
        raise BackendError("there is no cluster")


def test_a_cluster_that_is_not_there_leaves_nothing_behind_and_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        run_virtually(of(1), tmp_path / "new", executor=Unreachable())
    assert not (tmp_path / "new").exists()
    run_virtually(of(1, 2), tmp_path / "old", how=How(only=("random_seed=1",)))
    before = (tmp_path / "old" / ledger.NAME).read_bytes()
    with pytest.raises(BackendError):
        run_virtually(of(1, 2), tmp_path / "old", executor=Unreachable(), how=How(resume=True))
    assert (tmp_path / "old" / ledger.NAME).read_bytes() == before
    study = run_virtually(of(1, 2), tmp_path / "old", how=How(resume=True))
    assert [row.outcome for row in study.rows] == ["done", "done"]


def test_runs_are_ended_before_another_process_may_go_on(tmp_path: Path) -> None:
    class Leaving(VirtualExecutor):
        def __exit__(self, *error: object) -> None:
            held.append(ledger.is_running(tmp_path))

    held: list[bool] = []
    run_virtually(of(1), tmp_path, executor=Leaving())
    with pytest.raises(ResultError, match="holds a study already"):
        run_virtually(of(1), tmp_path, executor=Leaving())
    assert held == [True, False]


def llem(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llenergymeasure", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
    )


def test_experiments_from_unlike_places_are_labelled_and_not_compared(tmp_path: Path) -> None:
    study = of(1, 2, count=3)
    same = run_virtually(study, tmp_path)
    assert {row.place for row in same.rows} == {None}
    path = tmp_path / str(same.rows[1].folder) / "result.json"
    stored = json.loads(path.read_text())
    stored["runs"][1]["place"] = "elsewhere"
    path.write_text(json.dumps(stored))
    here, apart = account(planned(study), tmp_path).rows
    assert here.place is not None
    assert apart.place == f"{here.place} + elsewhere"
    assert apart.label == f"random_seed=2 ({apart.place})"
    unlike = same.model_copy(update={"rows": (here, apart)})
    assert any("not comparable" in line for line in cheapest_lines(unlike))
    assert not any("not comparable" in line for line in cheapest_lines(same))


def test_a_study_that_is_there_is_not_run_over(tmp_path: Path) -> None:
    run_virtually(of(1), tmp_path)
    with pytest.raises(ResultError, match="holds a study already"):
        run_virtually(of(1), tmp_path)
    again = VirtualExecutor()
    study = run_virtually(of(1), tmp_path, executor=again, how=How(resume=True))
    assert again.started == []
    assert study.rows[0].outcome == "done"


def test_going_on_with_another_study_names_what_changed(tmp_path: Path) -> None:
    run_virtually(of(1, 2), tmp_path)
    with pytest.raises(ResultError) as caught:
        run_virtually(of(2, 3), tmp_path, how=How(resume=True))
    assert "random_seed=1" in caught.value.message
    assert "random_seed=3" in caught.value.message
    executor = VirtualExecutor()
    study = run_virtually(of(2, 3), tmp_path, executor=executor, how=How(resume=True, accept_drift=True))
    assert len(executor.started) == 1
    assert [row.outcome for row in study.rows] == ["done", "done"]


def test_names_and_paths_are_no_part_of_what_a_study_is() -> None:
    content = of(1, 2)
    renamed = {**content, "name": "other", "output_dir": "elsewhere"}
    assert planned(content).identity == planned(renamed).identity
    limited = planned(of(1, 2, timeout=9.0, cooling=5.0, gaps=1.0, order="shuffled"))
    assert planned(content).identity == limited.identity
    assert {(one.config.timeout_s, one.config.baseline.cooling_seconds) for one in limited.experiments} == {
        (9.0, 5.0)
    }
    assert planned(content).identity != planned(of(1, 3)).identity
    assert planned(content).identity != planned(of(1, 2, count=3)).identity


def test_a_run_whose_folder_is_gone_is_made_again(tmp_path: Path) -> None:
    study = run_virtually(of(1, 2), tmp_path)
    assert study.rows[0].folder is not None
    shutil.rmtree(tmp_path / study.rows[0].folder)
    executor = VirtualExecutor()
    again = run_virtually(of(1, 2), tmp_path, executor=executor, how=How(resume=True))
    assert executor.started == [(study.rows[0].folder, 1)]
    assert [row.outcome for row in again.rows] == ["done", "done"]


def test_a_run_that_was_edited_by_hand_is_named(tmp_path: Path) -> None:
    study = run_virtually(of(1), tmp_path)
    assert study.rows[0].folder is not None
    events = tmp_path / study.rows[0].folder / "runs" / "1" / "events.jsonl"
    events.write_text(events.read_text().replace('"', "'", 1))
    with pytest.raises(ResultError, match=r"events\.jsonl was changed"):
        run_virtually(of(1), tmp_path, how=How(resume=True))
    copied = tmp_path / "copy"
    fresh = run_virtually(of(1), copied)
    assert fresh.rows[0].folder is not None
    # A copy has other times of change, and the same content.
    for path in copied.rglob("*"):
        os.utime(path)
    executor = VirtualExecutor()
    run_virtually(of(1), copied, executor=executor, how=How(resume=True))
    assert executor.started == []


def test_only_some_experiments_may_be_asked_for(tmp_path: Path) -> None:
    executor = VirtualExecutor()
    study = run_virtually(of(*SEEDS), tmp_path, executor=executor, how=How(only=("random_seed=[13]",)))
    assert [row.outcome for row in study.rows] == ["done", "pending", "done"]
    with pytest.raises(ConfigError, match="no experiment"):
        run_virtually(of(*SEEDS), tmp_path / "other", how=How(only=("nothing",)))
    assert not (tmp_path / "other").exists()


def test_equal_points_run_once_and_are_reported_under_each_name(tmp_path: Path) -> None:
    content: dict[str, JsonValue] = {**of(1, 2), "experiments": [{"random_seed": 2, "name": "the second"}]}
    executor = VirtualExecutor()
    study = run_virtually(content, tmp_path, executor=executor)
    assert len(executor.started) == 2
    assert [row.names for row in study.rows] == [("random_seed=1",), ("random_seed=2", "the second")]


def test_a_table_by_settings_keeps_the_names_that_were_given(tmp_path: Path) -> None:
    grid: dict[str, JsonValue] = of(1, 2)
    study = run_virtually(grid, tmp_path / "grid")
    assert cells(study)[0][0] == "random_seed"
    named: dict[str, JsonValue] = {**base(), "experiments": [{"name": "one=a", "random_seed": 1}, {"n": 4}]}
    study = run_virtually(named, tmp_path / "named")
    head, *rows = cells(study)
    assert head[:3] == ["experiment", "n", "random_seed"]
    assert [row[0] for row in rows] == ["one=a", "n=4"]
    (spec,) = [line for line in table(study, "latex").splitlines() if line.startswith(r"\begin")]
    assert spec.removeprefix(r"\begin{tabular}").strip("{}").startswith("lllr")
    placed = study.model_copy(
        update={"rows": tuple(row.model_copy(update={"place": "there"}) for row in study.rows)}
    )
    assert cells(placed)[0][0] == "experiment"


def test_no_column_of_data_has_a_cost_or_rate_below_zero_but_decode_which_is_a_difference(
    tmp_path: Path,
) -> None:
    study = run_virtually(of(1), tmp_path)
    wide = Estimate(2.0, "token/s", -3.0, 7.0)
    (row,) = study.rows
    row = row.model_copy(update={"output_tokens_per_second": wide, "energy_total": wide, "decode": wide})
    study = study.model_copy(update={"rows": (row,)})
    (found,) = csv.DictReader(table(study, "csv").splitlines())
    (framed,) = study_rows(study)
    for name, low in {"output_tokens_per_second": 0.0, "energy_total_j": 0.0, "decode_j": -3.0}.items():
        assert [float(found[f"{name}{end}"]) for end in ("", "_low", "_high")] == [2.0, low, 7.0]
        assert framed[f"{name}_low"] == low
    assert study.rows[0].output_tokens_per_second == wide


def test_energy_that_is_missing_everywhere_has_its_reason_below_the_table(tmp_path: Path) -> None:
    short: dict[str, JsonValue] = {**of(1, 2, 3), "passes": {"seconds": 0.3, "count": 1, "prefill": 0}}
    study = run_virtually(short, tmp_path)
    assert [row.valid for row in study.rows] == [False] * 3
    assert not any(line.startswith("( )") for line in marks(study))
    (line,) = [line for line in missing(study) if "too short" in line]
    assert line.startswith("random_seed=1 and 2 more: ")
    assert study.rows[0].energy_per_output_token is not None
    assert str(study.rows[0].energy_per_output_token.reason) in line


def test_repeats_that_the_budget_left_out_are_accounted_for(tmp_path: Path) -> None:
    passes: JsonValue = {"seconds": 1.0, "count": 1, "prefill": 0, "budget": {"seconds": 1.5}}
    study = run_virtually({**of(1, 2, count=3), "passes": passes}, tmp_path / "study")
    study.write(tmp_path / "study")
    (listed,) = entries(tmp_path)
    assert (listed.state, listed.what) == ("done", "4 of 6 runs of 2 experiments")
    assert [(row.outcome, row.runs, row.planned) for row in study.rows] == [("partial", 2, 3)] * 2
    assert study.finished
    assert not study.failed
    said = [line for line in missing(study) if "passes.budget" in line]
    assert [line.partition(":")[0] for line in said] == ["random_seed=1", "random_seed=2"]


def test_an_experiment_without_any_setting_of_the_sweep_has_a_name() -> None:
    plan = planned({**of(1, 2), "when": {"random_seed": {"precision": "fp32"}}})
    assert [one.label for one in plan.experiments] == ["base"]


def test_options_of_an_engine_that_does_not_run_are_no_part_of_a_name() -> None:
    plan = planned(
        {
            **base(),
            "sweep": {
                "backend": ["simulated", "vllm"],
                "vllm.batch_size": [1, 2],
                "simulated.batch_size": [1, 2],
            },
        }
    )
    assert [one.names for one in plan.experiments] == [
        ("backend=simulated simulated.batch_size=1",),
        ("backend=simulated simulated.batch_size=2",),
        ("backend=vllm vllm.batch_size=1",),
        ("backend=vllm vllm.batch_size=2",),
    ]


def test_an_axis_of_an_engine_that_does_not_run_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vllm\.batch_size changes nothing: no experiment runs on vllm"):
        planned({**base(), "sweep": {"vllm.batch_size": [1, 2]}})


def test_runs_side_by_side_count_what_they_have_to_themselves() -> None:
    plan = planned(of(1, 2, parallel="per-gpu"))
    assert {one.config.energy.meter for one in plan.experiments} == {"nvml"}
    asked = planned({**of(1, 2, parallel="per-gpu"), "energy": {"meter": "estimate"}})
    assert {one.config.energy.meter for one in asked.experiments} == {"estimate"}


def test_points_that_are_no_experiment_are_listed_with_their_reason_and_the_others_run(
    tmp_path: Path,
) -> None:
    content: dict[str, JsonValue] = {
        **base(),
        "sweep": {"simulated.batch_size": [1, 2, 64], "precision": ["bf16", "fp32"]},
        "exclude": [{"precision": "fp32", "simulated.batch_size": [1, 2]}],
    }
    study = run_virtually(content, tmp_path)
    assert [row.label for row in study.rows] == ["batch_size=1 precision=bf16", "batch_size=2 precision=bf16"]
    kinds = Counter(gap.kind for gap in study.left_out)
    assert kinds == {"excluded": 2, "invalid": 2}
    assert all("batch_size 64 is larger" in gap.reason for gap in study.left_out if gap.kind == "invalid")


def test_a_full_study_with_faults_accounts_for_every_point(tmp_path: Path) -> None:
    seeds: list[JsonValue] = list(range(1, 41))
    content = of(*seeds, stop_after_failures=None)
    study = run_virtually(content, tmp_path, executor=VirtualExecutor(fault=sprinkled(5, 0.4)))
    assert study.finished
    outcomes = Counter(row.outcome for row in study.rows)
    assert outcomes["done"] + outcomes["failed"] == 40
    assert 0 < outcomes["failed"] < 25
    assert all(row.failures for row in study.failed)
    assert not list(tmp_path.rglob("*.part"))


def program(folder: Path, points: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("virtual_study.py")), str(folder), str(points)]


def killed_and_resumed(command: Sequence[str], kills: int, draw: random.Random) -> int:
    """Run the program, kill it at random moments, and let it come to its end; how often it was killed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = 0
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 4.0))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
    subprocess.run(command, env=environment, check=True)
    return done


def settled(folder: Path) -> dict[str, tuple[int, list[tuple[int, str]]]]:
    """What is there in the end: measured runs and failures of each experiment."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        result = ExperimentResult.load(path)
        runs: list[tuple[int, str]] = [(run.index, run.outcome) for run in result.runs]
        found[path.parent.name] = (len(result.measured), sorted(runs))
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "points"), [(4, 8), pytest.param(50, 200, marks=pytest.mark.slow)])
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path, kills: int, points: int
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    subprocess.run(program(undisturbed, points), env=environment, check=True)
    began = time.monotonic()
    killed = killed_and_resumed(program(disturbed, points), kills, random.Random(kills))
    assert time.monotonic() - began < 600
    assert settled(disturbed) == settled(undisturbed)
    records = list(ledger.read(disturbed))
    done = Counter((one.experiment, one.repeat) for one in records if isinstance(one, Done))
    assert set(done.values()) == {1}
    begun = Counter((one.experiment, one.repeat, one.attempt) for one in records if isinstance(one, Begun))
    # A kill costs the run in flight alone, with the attempts at it that had failed before.
    assert len({(which, number) for (which, number, _), count in begun.items() if count > 1}) <= killed
    for path in disturbed.rglob("*.json"):
        json.loads(path.read_text())


def test_the_study_file_says_what_the_study_gave(tmp_path: Path) -> None:
    study = run_virtually(of(1, 2), tmp_path)
    study.write(tmp_path)
    assert StudyResult.load(tmp_path) == study
    refused = llem("show", str(tmp_path), "--uncertainty")
    assert (refused.returncode, refused.stdout) == (2, "")
    path = tmp_path / "study.json"
    path.write_text(path.read_text().replace('"schema_version": "1"', '"schema_version": "9"'))
    with pytest.raises(ResultError, match="'9'"):
        StudyResult.load(tmp_path)
    path.write_text("{")
    with pytest.raises(ResultError, match="cut short"):
        StudyResult.load(path)
