"""What a report says is what the results and their files say, whatever they hold."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_result import example_result
from pydantic import JsonValue
from typer.testing import CliRunner
from virtual_study import VirtualExecutor, base, planned, run_virtually

from llenergymeasure.cli import app
from llenergymeasure.energy.recording.trace import TraceWriter, compact
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Domain, Gap, Quantity, Window
from llenergymeasure.report.content import MOST_DETAILED, content
from llenergymeasure.report.latency import distributions
from llenergymeasure.report.markdown import as_markdown
from llenergymeasure.report.page import REPORT_FILE, as_html, report_of_study
from llenergymeasure.report.power import marks_of_run, power_over_time
from llenergymeasure.results import ExperimentResult
from llenergymeasure.study.task import Task

OLD = Path(__file__).parents[1] / "data" / "run-schema-1"
PRINTABLE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
EVIL = f"{PRINTABLE}\u2028\x1b[31m"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experiments of two runs; the runs of the second fail."""

    def fault(task: Task, _attempt: int) -> str | None:
        return "oom" if task.config.random_seed == 2 else None

    folder = tmp_path_factory.mktemp("results") / "study"
    passes: JsonValue = {"seconds": 2.0, "count": 2, "prefill": 1}
    swept: dict[str, JsonValue] = {
        **base(passes=passes, repeats={"count": 2}),
        "sweep": {"random_seed": [1, 2, 3]},
    }
    run_virtually(swept, folder, executor=VirtualExecutor(fault=fault)).write(folder)
    return folder


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def report(*paths: Path) -> dict[str, Any]:
    return data_of(as_html(content(paths)))


def llem(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["message"] for line in (run / "events.jsonl").read_text().splitlines()]


def test_power_over_time_shows_passes_and_silences_where_the_events_have_them(study: Path) -> None:
    data = report(study)
    (run,) = study.glob("random-seed-1-*/runs/1")
    drawn = data["details"][0]["power"][0]
    marks: dict[str, list[tuple[float, float]]] = {}
    for kind, start, end in drawn["marks"]:
        marks.setdefault(kind, []).append((start, end))
    told = events(run)
    measured = told[-1]
    blocks = [one for one in told if one["say"] == "block_done"]
    first_ns = min(
        one["start_ns"] for one in (measured["load"], *(block["before"] for block in measured["blocks"]))
    )
    shift = marks["loading"][0][0] - (measured["load"]["start_ns"] - first_ns) / 1e9

    def seconds(windows: list[dict[str, int]]) -> list[tuple[float, float]]:
        return [
            (shift + (one["start_ns"] - first_ns) / 1e9, shift + (one["end_ns"] - first_ns) / 1e9)
            for one in windows
        ]

    for kind, name in (("full", "pass"), ("prefill", "prefill pass")):
        due = seconds([one["window"] for block in blocks if block["kind"] == kind for one in block["passes"]])
        assert due
        np.testing.assert_allclose(marks[name], due, atol=1e-5)
    silences = [block[side] for block in measured["blocks"] for side in ("before", "after")]
    np.testing.assert_allclose(marks["silence"], seconds(silences), atol=1e-5)

    (domain,) = drawn["domains"]
    at, mean = np.array(domain["at"]), np.array(domain["mean"])
    # The simulated board: 95 W with a model loaded, 400 W at work; its counter is read every 0.1 s.
    for windows, low, high in ((marks["pass"], 330, 470), (marks["silence"], 80, 110)):
        inside = np.any([(at > start + 0.15) & (at < end - 0.15) for start, end in windows], axis=0)
        assert inside.any()
        assert low < mean[inside].mean() < high


def test_a_long_trace_is_thinned_to_means_within_their_extremes_and_keeps_its_joules(study: Path) -> None:
    (run,) = study.glob("random-seed-1-*/runs/1")
    marks = marks_of_run(run, None)
    whole, thin = (power_over_time(run, marks, sources=(), room=room)["domains"] for room in (10_000, 30))
    (every,), (thinned,) = (json.loads(json.dumps(one)) for one in (whole, thin))
    assert len(thinned["mean"]) == 30 < len(every["mean"])
    assert all(
        low <= mean <= high
        for low, mean, high in zip(thinned["low"], thinned["mean"], thinned["high"], strict=True)
    )
    assert (max(thinned["high"]), min(thinned["low"])) == (max(every["mean"]), min(every["mean"]))
    step_s = np.diff([*every["at"]]).mean()
    assert sum(thinned["mean"]) * thinned["step"] == pytest.approx(sum(every["mean"]) * step_s, rel=0.03)


def test_the_rows_of_a_study_are_its_own_in_its_order_with_what_failed(study: Path) -> None:
    data = report(study)
    assert [row["label"] for row in data["rows"]] == [f"random_seed={seed}" for seed in (1, 2, 3)]
    assert [row["outcome"] for row in data["rows"]] == ["done", "failed", "done"]
    assert data["details"][1] is None
    (lost,) = [one for one in data["alerts"] if "failed" in one["title"]]
    assert (lost["level"], lost["count"]) == ("error", 2)
    result = ExperimentResult.load(next(study.glob("random-seed-1-*")))
    value = dict(zip([one["key"] for one in data["figures"]], data["rows"][0]["values"], strict=True))
    shown, joules, *_ = value["energy"]
    assert joules == pytest.approx(result.energy.per_output_token.value, rel=1e-5)
    assert shown == str(result.energy.per_output_token)


def test_latencies_on_the_page_are_those_of_the_result(study: Path) -> None:
    one = report(study)["details"][0]
    result = ExperimentResult.load(next(study.glob("random-seed-1-*")))
    for key, times in (("ttft", result.performance.ttft_s), ("e2e", result.performance.e2e_s)):
        middle = one["distributions"][key][50]
        assert middle == pytest.approx(times.p50.value, rel=0.01)


@pytest.mark.parametrize(("kind", "sign"), [("modelled", True), ("measured", False)])
def test_modelled_energy_is_marked_everywhere(tmp_path: Path, kind: Any, sign: bool) -> None:
    example_result(energy=kind).save(tmp_path)
    found = content([tmp_path])
    data = data_of(as_html(found))
    (row,) = data["rows"]
    energies = [
        value[0]
        for figure, value in zip(data["figures"], row["values"], strict=True)
        if figure["energy"] and len(value) > 1
    ]
    assert energies
    assert {text.startswith("≈") for text in energies} == {sign}
    assert row["modelled"] is data["details"][0]["modelled"] is sign
    assert any("estimated" in line for line in data["words"]) is sign
    assert ("≈" in as_markdown(found)) is sign


def test_text_of_a_result_never_becomes_markup_of_the_page(tmp_path: Path) -> None:
    result = example_result()
    config = result.config.model_copy(update={"model": PRINTABLE})
    session = replace(result.session, arguments={EVIL: EVIL})
    result.model_copy(update={"config": config, "session": session, "notes": (EVIL,)}).save(tmp_path)
    page = as_html(content([tmp_path]))
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 3
    data = data_of(page)
    assert EVIL in data["details"][0]["notes"]
    assert data["title"].startswith(PRINTABLE)
    assert "<" not in as_markdown(content([tmp_path]))


def test_what_cannot_be_read_is_named_and_the_rest_is_reported(tmp_path: Path) -> None:
    good = example_result().save(tmp_path)
    text = (good / "result.json").read_text()
    for name, content_ in (
        ("cut", text[:1000]),
        ("nan", text.replace('"duration_s": 25.0', '"duration_s": NaN', 1)),
        ("newer", text.replace('"schema_version": "2"', '"schema_version": "99"', 1)),
        ("other", "{}"),
    ):
        assert content_ != text
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content_)
    data = report(tmp_path)
    assert len(data["rows"]) == 1
    told = [one["text"] for one in data["alerts"] if one["title"] == "Not read"]
    assert len(told) == 4
    assert all(any(f"/{name}/" in one for one in told) for name in ("cut", "nan", "newer", "other"))


def test_results_of_an_older_schema_stand_beside_newer_ones(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    example_result().save(tmp_path)
    data = report(tmp_path)
    assert len(data["rows"]) == 2
    assert data["settings"]
    assert not [one for one in data["alerts"] if one["title"] == "Not read"]


def test_a_result_without_a_trace_says_so(tmp_path: Path) -> None:
    example_result().save(tmp_path)
    data = report(tmp_path)
    assert data["details"][0]["power"] == []
    assert "trace" in data["details"][0]["why_no_power"]
    assert any("without a trace" in line for line in data["thinned"])


def test_energy_that_is_not_valid_comes_first_and_is_in_brackets(tmp_path: Path) -> None:
    result = example_result(energy="measured")
    energy = result.energy.model_copy(update={"valid": False, "reasons": ("gpu:x: counter_reset",)})
    result.model_copy(update={"energy": energy}).save(tmp_path)
    data = report(tmp_path)
    assert (data["alerts"][0]["level"], data["alerts"][0]["text"]) == ("error", "gpu:x: counter_reset")
    assert data["rows"][0]["values"][0][0].startswith("(")


def test_measured_beside_modelled_is_called_incomparable(tmp_path: Path) -> None:
    example_result(energy="measured", experiment_id="a").save(tmp_path)
    example_result(energy="modelled", experiment_id="b").save(tmp_path)
    example_result(energy="measured", experiment_id="c").save(tmp_path)
    data = report(tmp_path)
    assert {"Unlike kinds of energy", "Unlike boundaries"} <= {one["title"] for one in data["alerts"]}
    (cheapest,) = [line for line in data["words"] if line.startswith("Fewest")]
    assert "b" not in cheapest.partition(":")[2]


def test_of_very_many_results_the_first_have_details_and_the_page_says_so(tmp_path: Path) -> None:
    text = (example_result().save(tmp_path / "one") / "result.json").read_text()
    for at in range(MOST_DETAILED + 3):
        folder = tmp_path / "many" / f"run-{at}"
        folder.mkdir(parents=True)
        changed = text.replace('"experiment_id": "smollm2-135m_3f9a1c"', f'"experiment_id": "run-{at}"', 1)
        (folder / "result.json").write_text(changed)
    data = report(tmp_path / "many")
    assert len(data["rows"]) == MOST_DETAILED + 3
    assert sum(one is not None for one in data["details"]) == MOST_DETAILED
    assert any(f"{MOST_DETAILED + 3}" in line for line in data["thinned"])
    assert len(as_html(content([tmp_path / "many"]))) < 5_000_000


def test_a_study_gets_its_report_and_a_failing_one_is_remarked(study: Path, tmp_path: Path) -> None:
    remarks: list[str] = []
    report_of_study(study, remarks.append)
    assert data_of((study / REPORT_FILE).read_text(encoding="utf-8"))["rows"]
    assert remarks == []
    report_of_study(tmp_path, remarks.append)
    assert len(remarks) == 1


def test_the_command_writes_where_it_is_told_and_never_over_a_file_of_others(tmp_path: Path) -> None:
    folder = example_result().save(tmp_path)
    assert llem(tmp_path)[0] == 0
    assert (tmp_path / REPORT_FILE).is_file()
    assert llem(tmp_path)[0] == 0
    assert llem(folder / "result.json", "-o", tmp_path / "named.html")[0] == 0
    assert (tmp_path / "named.html").is_file()
    (folder / REPORT_FILE).write_text("mine")
    code, _, said = llem(folder)
    assert (code, (folder / REPORT_FILE).read_text()) == (1, "mine")
    assert "hint:" in said
    assert not list(tmp_path.rglob("*.part"))


def test_markdown_is_data_on_stdout(study: Path) -> None:
    code, out, _ = llem(study, "--format", "md")
    assert code == 0
    assert out.startswith("# ")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert sum("J/token" in line for line in table) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere"], 1), (["empty"], 1), (["text.txt"], 1), (["empty", "--format", "pdf"], 2)],
)
def test_a_path_that_holds_no_result_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no result")
    found, out, said = llem(*arguments)
    assert (found, out) == (code, "")
    assert arguments[-1] in said or arguments[0] in said
    assert not (tmp_path / "empty" / REPORT_FILE).exists()


def test_several_studies_are_told_apart_by_what_differs(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run_virtually({**base(n=3), "sweep": {"random_seed": [1]}}, other).write(other)
    data = report(study, other)
    assert len(data["rows"]) == 4
    assert len({row["label"] for row in data["rows"]}) == 4
    # How long the passes were differs too, and is not what the experiments are about.
    assert set(data["settings"]) == {"n", "random_seed"}


def test_a_study_whose_file_is_damaged_still_gives_its_results(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    (copy / "study.json").write_text("{")
    data = report(copy)
    assert len(data["rows"]) == 2
    assert any(one["title"] == "Not read" for one in data["alerts"])
    shutil.rmtree(next(copy.glob("random-seed-1-*")))
    shutil.rmtree(next(copy.glob("random-seed-3-*")))
    with pytest.raises(ResultError):
        content([copy])


def test_planned_but_missing_runs_are_named(tmp_path: Path) -> None:
    from llenergymeasure.study.account import account

    plan = planned({**base(), "sweep": {"random_seed": [1, 2]}})
    tmp_path.joinpath("ledger.jsonl").touch()
    account(plan, tmp_path).write(tmp_path)
    data = report(tmp_path)
    assert [row["outcome"] for row in data["rows"]] == ["pending", "pending"]
    assert [one["count"] for one in data["alerts"] if one["title"] == "Not run yet"] == [2]


def test_energy_that_is_missing_has_its_reason_and_no_number(tmp_path: Path) -> None:
    example_result(energy="missing").save(tmp_path)
    data = report(tmp_path)
    assert "energy" not in [one["key"] for one in data["figures"]]
    assert any("no meter" in row[2] for row in data["details"][0]["groups"][0]["rows"])


def test_power_throttling_and_gaps_of_a_trace_are_what_was_sampled(tmp_path: Path) -> None:
    """By hand: 100 W up to 10 s and 300 W after; throttled from 12 to 14 s; nothing read from 16 to 17 s."""
    board = Domain(
        "gpu:x",
        "gpu",
        (
            Quantity("total_energy", "nvml.total_energy", "J", 1e-3, step_ns=100_000_000),
            Quantity("throttle_thermal", "nvml.violation.thermal", "s", 1e-9),
        ),
    )
    unused = Domain("gpu:y", "gpu", (Quantity("total_energy", "other", "J", 1e-3),))
    writer = TraceWriter(tmp_path / "power.arrow", [board, unused])
    rows = []
    for tenth in range(1, 201):
        if 160 < tenth < 170:
            continue
        at_ns = tenth * 100_000_000
        joules = 10 * min(tenth, 100) + 30 * max(0, tenth - 100)
        throttled_ns = min(max(0, tenth - 120), 20) * 100_000_000
        rows += [(0, at_ns, at_ns, 1000 * joules), (1, at_ns, at_ns, throttled_ns), (2, at_ns, at_ns, joules)]
    writer.write(rows, [Gap(Window(16_000_000_000, 17_000_000_000), "blocked")])
    writer.close()
    compact(tmp_path)
    found: Any = power_over_time(tmp_path, [], sources={"nvml.total_energy"}, room=1000)
    (domain,) = found["domains"]
    power = dict(zip(domain["at"], domain["mean"], strict=True))
    assert {watts for at, watts in power.items() if at < 9.7} == {100.0}
    assert {watts for at, watts in power.items() if at > 10.2} == {300.0}
    assert found["marks"] == [
        ["throttled by heat", pytest.approx(11.9), pytest.approx(13.9)],
        ["gap in the recording", pytest.approx(15.9), pytest.approx(16.9)],
    ]


def test_latencies_of_a_load_count_from_when_requests_were_due(tmp_path: Path) -> None:
    table = pa.table(
        {
            "kind": ["full"] * 2,
            "finish": ["eos"] * 2,
            "output_tokens": [2, 2],
            "t_scheduled_ns": [0, 0],
            "t_sent_ns": [10**9] * 2,
            "t_first_ns": [3 * 10**9, 4 * 10**9],
            "t_end_ns": [5 * 10**9] * 2,
        }
    )
    pq.write_table(table, tmp_path / "requests.parquet")
    assert distributions([tmp_path], shares=2)["ttft"] == [2.0, 3.0]
    assert distributions([tmp_path], shares=2, from_due=True)["ttft"] == [3.0, 4.0]
