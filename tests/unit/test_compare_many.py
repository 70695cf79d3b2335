"""Many results against a baseline, studies against studies, limits, forms, and what can't be compared."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_compare import configured, costing, figure, later, result, warned, with_runs
from typer.testing import CliRunner
from virtual_study import base, run_virtually

from llenergymeasure.analysis.compare import (
    ENERGY,
    LeftOut,
    compare,
)
from llenergymeasure.analysis.judge import judge
from llenergymeasure.analysis.limits import limit_of, regressions
from llenergymeasure.analysis.many import Item, against, by_configuration, compare_many
from llenergymeasure.analysis.statistics import anytime_quantile, holm, t_quantile, two_sided
from llenergymeasure.cli import app
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate, Start
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.study_table import markdown_text


def costing_each(*costs: float, name: str = "any") -> ExperimentResult:
    """Runs with these joules per output token, and with the same of everything else."""
    whole = with_runs(costing(fmean(costs) / 2), costs)
    at = Start("2025-11-25T10:00:00+00:00", 1, name)
    return whole.model_copy(update={"experiment_id": name, "started_at": at})


def save(directory: Path, *results: ExperimentResult) -> list[str]:
    return [str(one.save(directory)) for one in results]


def llem(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


DATA = Path(__file__).parents[1] / "data"
A = costing_each(1.99, 2.0, 2.01, name="a")
SAME = costing_each(1.995, 2.005, 2.0, name="same")
WORSE = costing_each(2.39, 2.4, 2.41, name="worse")


# The statistics


@given(st.floats(0.01, 20), st.floats(1, 1e7))
def test_the_chance_of_a_quantile_is_what_it_leaves_out(t: float, degrees: float) -> None:
    chance = two_sided(t, degrees)
    if 1e-9 < chance < 1:
        assert t_quantile(1 - chance / 2, degrees) == pytest.approx(t, rel=1e-5)


def test_holm_by_hand() -> None:
    # 0.05 / 4 = 0.0125, / 3 = 0.0167, / 2 = 0.025
    assert holm([0.03, 0.001, 0.015, 0.04], alpha=0.05) == [False, True, True, False]
    assert holm([0.02, 0.02], alpha=0.05) == [True, True]
    assert holm([0.03, 0.03], alpha=0.05) == [False, False]
    assert holm([], alpha=0.05) == []


def test_a_quantile_for_every_look_is_wider_than_for_one_and_few_values_say_nothing() -> None:
    assert anytime_quantile(0.05, 1) == anytime_quantile(0.05, 3) == math.inf
    for count in (5, 10, 30, 1000):
        assert anytime_quantile(0.05, count) > t_quantile(0.975, count - 1)
        assert anytime_quantile(0.01, count) > anytime_quantile(0.05, count)
    # For many values it is that of a normal mean: sqrt(log((n + c) / c) − 2 log α) with c = 1/4.
    many = 10**6
    assert anytime_quantile(0.05, many) == pytest.approx(
        math.sqrt(math.log((many + 0.25) / 0.25) - 2 * math.log(0.05)), rel=1e-3
    )


def test_looking_after_every_block_seldom_calls_equal_ones_different() -> None:
    draw, called = random.Random(11), 0
    for _ in range(400):
        logs: list[float] = []
        for _ in range(30):
            logs.append(draw.gauss(0.0, 0.014))
            mean = fmean(logs)
            spread = math.sqrt(sum((one - mean) ** 2 for one in logs) / max(1, len(logs) - 1) / len(logs))
            if len(logs) >= 3 and abs(mean) > anytime_quantile(0.05, len(logs)) * spread:
                called += 1
                break
    assert called / 400 <= 0.05


def test_blocks_take_out_what_both_sides_share() -> None:
    drifting = [1.0, 1.1, 1.2, 1.3]
    blocks = ("1", "2", "3", "4")
    a = figure(*drifting, blocks=blocks)
    b = figure(*(1.03 * one * (1 + 0.001 * (-1) ** at) for at, one in enumerate(drifting)), blocks=blocks)
    apart, paired = (
        judge(ENERGY, "", figure(*a.runs), figure(*b.runs), cancels=True),
        judge(ENERGY, "", a, b, cancels=True),
    )
    assert apart.verdict == "no difference shown"
    assert paired.verdict == "higher"
    assert paired.method is not None
    assert (paired.method.name, paired.method.degrees) == ("paired_blocks", 3)
    logs = [math.log(two / one) for one, two in zip(a.runs, b.runs, strict=True)]
    spread = math.sqrt(sum((one - fmean(logs)) ** 2 for one in logs) / 3 / 4)
    assert paired.ratio.high == pytest.approx(math.exp(fmean(logs) + t_quantile(0.975, 3) * spread))
    looked_at = judge(ENERGY, "", a, b, cancels=True, sequential=True)
    assert looked_at.ratio.high == pytest.approx(math.exp(fmean(logs) + anytime_quantile(0.05, 4) * spread))


def test_only_blocks_that_both_have_are_compared() -> None:
    a = figure(1.0, 2.0, 3.0, 4.0, blocks=("1", "2", "3", "4"))
    b = figure(2.2, 3.3, 4.4, 9.0, blocks=("2", "3", "4", "9"))
    assert judge(ENERGY, "", a, b, cancels=True).ratio.value == pytest.approx(1.1)


# A family


def items(*results: ExperimentResult) -> list[Item]:
    return [Item(one.experiment_id, one) for one in results]


def test_of_many_each_interval_is_wider_and_the_verdict_is_holms() -> None:
    alone = compare(A, WORSE).ratios[0]
    first, *others = items(A, WORSE, SAME, *(costing_each(1.99, 2.0, 2.01, name=f"n{at}") for at in range(8)))
    many = compare_many(against(first, others), baseline="a")
    worse, same = (one.comparison.ratios[0] for one in many.pairs[:2])
    assert alone.ratio.low is not None
    assert worse.ratio.low is not None
    assert worse.ratio.low < alone.ratio.low
    assert many.pairs[0].comparison.family == 10
    assert (worse.verdict, same.verdict) == ("higher", "no difference shown")


def test_a_verdict_of_holm_whose_own_interval_includes_one_is_cut_there() -> None:
    # Of two, the larger p needs 0.05 only, and its interval is one of 97.5 %.
    near = costing_each(2.018, 2.033, 2.048, name="near")
    chance = compare(A, near).ratios[0].chance
    assert chance is not None
    assert 0.025 < chance < 0.05
    many = compare_many(against(*_first(items(A, WORSE, near))), baseline="a")
    found = many.pairs[1].comparison.ratios[0]
    assert (found.verdict, found.ratio.low) == ("higher", 1.0)
    alone = compare_many(against(*_first(items(A, SAME, near))), baseline="a")
    assert alone.pairs[1].comparison.ratios[0].verdict == "no difference shown"


def _first(found: Sequence[Item]) -> tuple[Item, Sequence[Item]]:
    return found[0], found[1:]


def test_equal_configurations_are_seldom_called_different_however_many_there_are() -> None:
    draw, called, studies = random.Random(3), 0, 60
    for _ in range(studies):
        sides = [
            costing_each(*(draw.gauss(2.0, 0.02) for _ in range(4)), name=f"n{number}")
            for number in range(11)
        ]
        many = compare_many(against(*_first(items(*sides))), baseline="n0")
        called += any(one.comparison.ratios[0].verdict in {"higher", "lower"} for one in many.pairs)
    # The most that 5 % give in 60 with a chance of one in a thousand.
    assert called <= studies * 0.05 + NormalDist().inv_cdf(0.999) * math.sqrt(studies * 0.05 * 0.95)


def test_unlike_conditions_are_left_out_by_name_and_all_of_them_are_refused() -> None:
    other = WORSE.model_copy(update={"energy": WORSE.energy.model_copy(update={"boundary": "gpu+cpu+dram"})})
    many = compare_many(against(*_first(items(A, SAME, other))), baseline="a")
    assert [one.label for one in many.pairs] == ["same"]
    (left,) = many.left_out
    assert left.name == "worse"
    assert "gpu+cpu+dram" in left.reason
    with pytest.raises(ConfigError, match="worse") as caught:
        compare_many(against(*_first(items(A, other))), baseline="a")
    assert "--allow boundary" in (caught.value.hint or "")
    allowed = compare_many(against(*_first(items(A, other))), baseline="a", allow=["boundary"])
    assert allowed.pairs[0].comparison.ratios[0].verdict == "higher"


# Studies


def of(result: ExperimentResult, name: str, **changes: Any) -> Item:
    return Item(name, configured(result, **changes))


def test_studies_are_paired_by_what_varies_within_them() -> None:
    a = [of(A, f"n={n}", n=n, precision="bf16") for n in (1, 2, 3)]
    b = [of(WORSE, f"n={n}", n=n, precision="fp32") for n in (3, 1, 4)]
    pairs, left = by_configuration(("old", a), ("new", b))
    assert [(one.label, one.a.name, one.b.name) for one in pairs] == [("n=1",) * 3, ("n=3",) * 3]
    assert left == [LeftOut("n=2", "only in old", absent=True), LeftOut("n=4", "only in new", absent=True)]


def test_what_varies_in_one_study_alone_has_to_be_the_same_too() -> None:
    a = [of(A, name, precision=name) for name in ("bf16", "fp32")]
    pairs, left = by_configuration(("old", a), ("new", [of(WORSE, "only", precision="fp32")]))
    assert [(one.a.name, one.b.name) for one in pairs] == [("fp32", "only")]
    assert [one.name for one in left] == ["bf16"]


def test_studies_without_anything_in_common_are_refused() -> None:
    with pytest.raises(ConfigError, match="precision"):
        by_configuration(
            ("old", [of(A, name, precision=name) for name in ("bf16", "fp32")]),
            ("new", [of(A, name, precision=name) for name in ("fp16", "int8")]),
        )


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of the same sweep; the second takes 10 % more and leaves one point out."""
    found = []
    for name, watts in (("old", 300.0), ("new", 330.0)):
        folder = tmp_path_factory.mktemp("studies") / name
        whole: dict[str, Any] = {
            **base(
                repeats={"count": 3},
                passes={"seconds": 5.0, "count": 2, "prefill": 0},
                warmup={"min_batches": 3},
            ),
            "simulated": {"active_w": watts, "run_scatter": 0.002},
            "sweep": {"precision": ["bf16", "fp32", "fp16"][: 3 if name == "old" else 2]},
        }
        run_virtually(whole, folder).write(folder)
        found.append(folder)
    return found[0], found[1]


def test_two_studies_are_compared_experiment_by_experiment(studies: tuple[Path, Path]) -> None:
    done = llem(*map(str, studies), "--json")
    assert done.exit_code == 0, done.stderr
    many = json.loads(done.stdout)
    assert [one["label"] for one in many["pairs"]] == ["precision=bf16", "precision=fp32"]
    for pair in many["pairs"]:
        assert [one["name"] for one in pair["comparison"]["settings"]] == ["simulated.active_w"]
        energy = pair["comparison"]["ratios"][0]
        assert energy["verdict"] == "higher"
        assert energy["ratio"]["value"] == pytest.approx(1.1, rel=0.02)
    assert [one["name"] for one in many["left_out"]] == ["precision=fp16"]


def test_one_study_is_compared_with_its_first_experiment_or_another(studies: tuple[Path, Path]) -> None:
    old = str(studies[0])
    many = json.loads(llem(old, "--json").stdout)
    assert (many["baseline"], len(many["pairs"])) == ("precision=bf16", 2)
    other = json.loads(llem(old, "--json", "--baseline", "precision=fp16").stdout)
    assert other["baseline"] == "precision=fp16"
    wrong = llem(old, "--baseline", "precision=fp1")
    assert wrong.exit_code == 2
    assert "precision=fp16" in wrong.stderr


def test_an_experiment_that_only_one_study_has_does_not_end_a_gate_but_a_failed_one_does(
    studies: tuple[Path, Path], tmp_path: Path
) -> None:
    limit = ("--fail-on-regression", "per_output_token>30%")
    assert llem(*map(str, studies), *limit).exit_code == 0
    assert llem(*map(str, studies), "--fail-on-regression", "per_output_token>5%").exit_code == 4
    stored = StudyResult.load(studies[1])
    rows = tuple(
        row.model_copy(update={"folder": None, "outcome": "failed"} if at == 0 else {})
        for at, row in enumerate(stored.rows)
    )
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / str(stored.rows[1].folder)).symlink_to(studies[1] / str(stored.rows[1].folder))
    stored.model_copy(update={"rows": rows}).write(folder)
    failed = llem(str(studies[0]), str(folder), *limit)
    assert failed.exit_code == 2
    assert "precision=bf16" in failed.stderr


# Limits


@pytest.mark.parametrize(
    "text", ["per_output_token", "per_output_token>3", "x>3%", ">3%", "ttft_s<3%", "ttft_s>-3%"]
)
def test_a_limit_without_meaning_ends_with_two(text: str, tmp_path: Path) -> None:
    assert llem(*save(tmp_path, A, WORSE), "--fail-on-regression", text).exit_code == 2


def with_throughput(share: float) -> ExperimentResult:
    """A with that much more."""
    each = [1000.0 * (1 + share) * (1 + 0.001 * at) for at in (-1, 0, 1)]
    runs = tuple(
        run.model_copy(update={"figures": run.figures.model_copy(update={"output_tokens_per_second": one})})
        for run, one in zip(A.runs, each, strict=True)
        if run.figures is not None
    )
    shown = Estimate(each[1], "token/s", each[0], each[2])
    speed = A.performance.model_copy(update={"output_tokens_per_second": shown})
    return later(A.model_copy(update={"runs": runs, "performance": speed}))


@pytest.mark.parametrize(("share", "worse"), [(-0.1, True), (-0.02, False), (0.1, False)])
def test_less_throughput_is_what_is_worse(share: float, *, worse: bool) -> None:
    a = with_throughput(0.0).model_copy(update={"started_at": A.started_at})
    found = regressions(compare(a, with_throughput(share)), limit_of("output_tokens_per_second>3%"))
    assert bool(found) == worse


def test_several_limits_each_end_with_four_when_passed(tmp_path: Path) -> None:
    both = save(tmp_path, A, WORSE)
    for given_, code in (
        (["per_output_token>5%", "ttft_s>5%"], 4),
        (["ttft_s>5%", "energy.per_output_token>5%"], 4),
        (["ttft_s>5%", "performance.ttft_s.p50>1%"], 0),
        (["per_output_token>25%"], 0),
    ):
        options = [part for one in given_ for part in ("--fail-on-regression", one)]
        assert llem(*both, *options).exit_code == code


def test_the_limit_of_an_interval_that_reaches_below_it_is_not_passed() -> None:
    wide = costing_each(2.0, 2.4, 2.8, name="wide")
    assert compare(A, wide).ratios[0].ratio.value == pytest.approx(1.2)
    assert regressions(compare(A, wide), limit_of("per_output_token>3%")) == []


def test_a_limit_that_cannot_be_judged_does_not_hide_a_regression(tmp_path: Path) -> None:
    both = save(tmp_path, A, WORSE)
    unknown = ("--fail-on-regression", "peak_bytes>5%")
    assert llem(*both, *unknown).exit_code == 1
    assert llem(*both, *unknown, "--fail-on-regression", "per_output_token>5%").exit_code == 4


# Forms


def test_the_csv_has_a_row_for_each_figure_of_each_pair_with_bare_numbers(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(llem(*save(tmp_path, A, WORSE, SAME), "--csv").stdout)))
    energies = [row for row in rows if row["figure"] == "energy_per_output_token"]
    assert [row["b"] for row in energies] == ["worse", "same"]
    assert float(energies[0]["ratio"]) == pytest.approx(1.2)
    assert energies[0]["verdict"] == "higher"
    assert float(energies[0]["ratio_low"]) < 1.2 < float(energies[0]["ratio_high"])


def test_one_form_at_a_time(tmp_path: Path) -> None:
    both = save(tmp_path, A, WORSE)
    assert llem(*both, "--json", "--csv").exit_code == 2
    assert llem(*both, "--format", "html").exit_code == 2


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "github", "json"])
def test_a_name_can_neither_steer_a_terminal_nor_run_script_nor_break_a_table(
    form: str, tmp_path: Path
) -> None:
    names = [f"<script>alert({number})</script>|`rm`_[x]" for number in range(3)]
    odd = [
        warned(configured(one, model=name, precision=precision), "host_busy", said=f"{name}\n\x1b[31m\u202e|")
        for one, name, precision in zip((A, WORSE, SAME), names, ("bf16", "fp16", "fp32"), strict=True)
    ]
    for shown in (odd[:2], odd):
        stored = [*save(tmp_path / str(len(shown)), *shown), "--allow", "model"]
        done = llem(*stored, "--format", form)
        assert done.exit_code == 0, done.stderr
        assert not re.search("[\x1b\u202e]", done.stdout)
        if form in {"markdown", "github"}:
            tables = [line for line in done.stdout.splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1
            assert not re.search(r"(?<!\\)<script", done.stdout)


def test_the_summary_of_a_job_says_what_was_decided(tmp_path: Path) -> None:
    both = save(tmp_path, A, WORSE)
    for limit, head in (("5", "Regression"), ("25", "No regression")):
        done = llem(*both, "--format", "github", "--fail-on-regression", f"per_output_token>{limit}%")
        assert head in done.stdout.splitlines()[0]
        assert done.stdout.count("<details>") == done.stdout.count("</details>") == 1


# What can't be read


def test_a_glob_leaves_out_by_name_what_is_not_a_result(tmp_path: Path) -> None:
    save(tmp_path, A, WORSE, SAME)
    cut, newer, odd = (tmp_path / name for name in ("cut", "newer", "odd"))
    text = (tmp_path / "a" / RESULT_FILE).read_text()
    data = json.loads(text)
    for folder, content in (
        (cut, text[:3000]),
        (newer, json.dumps({**data, "schema_version": "99"})),
        (odd, json.dumps({**data, "energy": {**data["energy"], "net": math.nan}})),
    ):
        folder.mkdir()
        (folder / RESULT_FILE).write_text(content)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    done = llem(str(tmp_path / "*"), "--json", "--baseline", "a")
    assert done.exit_code == 0, done.stderr
    many = json.loads(done.stdout)
    assert {one["b"] for one in many["pairs"]} == {"worse", "same"}
    assert {Path(one["name"]).name for one in many["left_out"]} == {
        "cut",
        "newer",
        "odd",
        "notes.txt",
        "empty",
    }
    limit = ("--baseline", "a", "--fail-on-regression", "per_output_token>30%")
    assert llem(str(tmp_path / "*"), *limit).exit_code == 2
    for folder in (cut, newer, odd):
        (folder / RESULT_FILE).rename(folder / "other.json")
    # What never was a result has no regression to hide.
    assert llem(str(tmp_path / "*"), *limit).exit_code == 0
    for folder in (cut, newer, odd):
        (folder / "other.json").rename(folder / RESULT_FILE)
    for folder in (cut, newer, odd, tmp_path / "empty"):
        named = llem(str(tmp_path / "a"), str(folder))
        assert named.exit_code == 1
        assert str(folder) in named.stderr.replace("\n  ", "")


def test_a_result_of_an_older_schema_is_read_and_named_where_it_differs(tmp_path: Path) -> None:
    save(tmp_path, A, SAME)
    old = tmp_path / "old"
    old.mkdir()
    (old / RESULT_FILE).write_bytes((DATA / "run-schema-1" / RESULT_FILE).read_bytes())
    many = json.loads(llem(str(tmp_path / "*"), "--json", "--baseline", "a").stdout)
    (left,) = many["left_out"]
    assert "model:" in left["reason"]
    whole = ExperimentResult.load(old)
    assert left["name"] == whole.experiment_id
    both = save(tmp_path / "again", whole, later(whole).model_copy(update={"experiment_id": "later"}))
    energy = json.loads(llem(*both, "--json").stdout)["ratios"][0]
    assert energy["ratio"]["value"] == pytest.approx(1.0)


def test_modelled_among_measured_is_left_out_unless_mixed_is_allowed(tmp_path: Path) -> None:
    modelled = result(kind="modelled").model_copy(update={"experiment_id": "modelled"})
    all_of_them = save(tmp_path, A, SAME, modelled)
    many = json.loads(llem(*all_of_them, "--json").stdout)
    assert [one["name"] for one in many["left_out"]] == ["modelled"]
    mixed = json.loads(llem(*all_of_them, "--json", "--allow-mixed", "--allow", "boundary").stdout)
    assert [one["b"] for one in mixed["pairs"]] == ["same", "modelled"]


def test_beginnings_of_ids_are_compared(tmp_path: Path) -> None:
    save(tmp_path, A, WORSE)
    done = llem("a", "wor", "--dir", str(tmp_path), "--json")
    assert json.loads(done.stdout)["b"]["experiment_id"] == "worse"


def test_one_result_is_none_to_compare(tmp_path: Path) -> None:
    assert llem(*save(tmp_path, A)).exit_code == 2


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a_b > 3 % & ± <1 [1]", "a_b > 3 % & ± <1 [1]"),
        ("__x__", r"\_\_x\_\_"),
        ("<b>a|b`c`</b>", r"\<b>a\|b\`c\`\</b>"),
        ("[x](javascript:y)", r"[x\](javascript:y)"),
        ("&lt;\\|*", r"\&lt;\\\|\*"),
    ],
)
def test_text_in_markdown_is_shown_as_it_is_and_plain_text_stays_plain(text: str, safe: str) -> None:
    assert markdown_text(text) == safe
