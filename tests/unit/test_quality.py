"""Answers are judged by the reference of their record: how many are right, and what a right one costs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.virtual_run import VirtualRuns, virtual_experiment
from example_result import example_result
from typer.testing import CliRunner
from virtual_result import BentSession, config, unbent

from llenergymeasure.analysis.cheapest import holding
from llenergymeasure.analysis.compare import compare
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.quality import accuracy, accuracy_difference, per_correct_answer
from llenergymeasure.backends import Observer, Session
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.cli import app
from llenergymeasure.config.models import DatasetConfig, ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.records import Clock, Completion, Estimate, Generation, Request, Verdict
from llenergymeasure.results.models import ExperimentResult, MatcherCount, Quality
from llenergymeasure.results.rows import parts
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.study_table import as_text
from llenergymeasure.results.summary import as_text as summary_text
from llenergymeasure.workload.answers import is_right, reference_of
from llenergymeasure.workload.formats import OddRecordError, Reference
from llenergymeasure.workload.judging import judge
from llenergymeasure.workload.prompts import load_prompts

SAID = "The secret answer is 42"


@pytest.mark.parametrize(
    ("record", "matcher", "answers"),
    [
        ({"answer": "5"}, "number", ("5",)),
        ({"answer": 3.5}, "number", ("3.5",)),
        ({"answer": "6 eggs, so\n#### 1,234"}, "number", ("1234",)),
        ({"answer": "$40"}, "number", ("40",)),
        ({"answer": "B"}, "choice", ("B",)),
        ({"answer": "(c)"}, "choice", ("C",)),
        ({"answerKey": "D", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, "choice", ("D",)),
        ({"answer": 1, "choices": ["x", "y", "z"]}, "choice", ("B",)),
        ({"answer": "y", "options": ["x", "y"]}, "choice", ("B",)),
        ({"answer": "Paris"}, "exact", ("Paris",)),
        ({"answer": True}, "exact", ("yes",)),
        ({"answers": {"text": ["a b", "c d"], "answer_start": [1, 2]}}, "exact", ("a b", "c d")),
        ({"answer": {"value": "Oslo", "aliases": ["oslo city"]}}, "exact", ("Oslo", "oslo city")),
    ],
)
def test_the_matcher_follows_from_the_reference(
    record: dict[str, Any], matcher: str, answers: tuple[str, ...]
) -> None:
    assert reference_of(record, key=None, matcher=None) == Reference(matcher, answers)  # type: ignore[arg-type]


@pytest.mark.parametrize("record", [{}, {"answer": None}, {"answer": "  "}, {"target": "5"}, "text", None])
def test_a_record_without_a_reference_is_not_judged(record: object) -> None:
    assert reference_of(record, key=None, matcher=None) is None


def test_a_reference_is_taken_from_the_key_that_is_named_and_must_suit_its_matcher() -> None:
    assert reference_of({"target": 7}, key="target", matcher=None) == Reference("number", ("7",))
    for matcher, answer in (("number", "Paris"), ("choice", "Paris"), ("regex", "(")):
        with pytest.raises(OddRecordError, match="reference answer"):
            reference_of({"answer": answer}, key=None, matcher=matcher)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("matcher", "answer", "right", "wrong"),
    [
        (
            "exact",
            "Paris",
            ["paris.", "  PARIS\n", "<think>Rome?</think>Paris"],
            ["Paris, France", "Pari", ""],
        ),
        (
            "number",
            "1234",
            ["1,234", "it is 1234.0 eggs", "12, then 1.234e3", "3 #### 1234"],
            ["1235", "1234 or 5", ""],
        ),
        ("number", "-3", ["x = -3", "−1 no: -3"], ["3", "none"]),
        (
            "choice",
            "B",
            ["B", "(B) apple", "B. apple", "The answer is B", "A? No: the answer is (B).", "**B**"],
            ["A", "The answer is C, not B", "apple", ""],
        ),
        ("regex", r"\b4[23]\b", ["it is 42", "43!"], ["142", "44"]),
    ],
)
def test_an_answer_is_right_or_wrong(matcher: str, answer: str, right: list[str], wrong: list[str]) -> None:
    reference = Reference(matcher, (answer,))  # type: ignore[arg-type]
    assert [said for said in right if not is_right(said, reference)] == []
    assert [said for said in wrong if is_right(said, reference)] == []


def test_accuracy_has_the_interval_of_wilson() -> None:
    # 8 of 10 by Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 is 0.2553 to 0.3662.
    found = accuracy([1.0] * 81 + [0.0] * 182)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.2553, 0.3662)
    assert (accuracy([0.0] * 5).low, accuracy([1.0] * 5).high) == (0.0, 1.0)
    assert accuracy([]).value is None


def test_joules_per_correct_answer_hold_the_truth_as_often_as_they_say() -> None:
    draw, held, tries = random.Random(7), 0, 2000
    for _ in range(tries):
        right = sum(draw.random() < 0.6 for _ in range(60))
        # Five runs of 100 J with 10 %; 2.776 is Student's t of four degrees.
        runs = [draw.gauss(100, 10) for _ in range(5)]
        mean = sum(runs) / 5
        half = 2.776 * math.sqrt(sum((one - mean) ** 2 for one in runs) / 4 / 5)
        cost = per_correct_answer(
            Estimate.around(mean, "J/request", half), accuracy([1.0] * right + [0.0] * (60 - right))
        )
        assert cost.low is not None
        assert cost.high is not None
        held += cost.low <= 100 / 0.6 <= cost.high
    assert 0.93 <= held / tries <= 0.985


def test_joules_per_correct_answer_are_missing_with_the_reason() -> None:
    request = Estimate.around(10.0, "J/request", 1.0, (5.0, 20.0))
    assert per_correct_answer(request, accuracy([0.0] * 3)).reason == "no answer was right"
    bare = per_correct_answer(Estimate(10.0, "J/request", reason="one run"), accuracy([1.0, 0.0]))
    assert (bare.value, bare.low, bare.reason) == (20.0, None, "one run")
    assert per_correct_answer(request, accuracy([1.0, 0.0])).systematic == (10.0, 40.0)
    assert per_correct_answer(Estimate.missing("J/request", "no meter"), accuracy([1.0])).reason == "no meter"


@dataclass(frozen=True)
class SayingSession(BentSession):
    """Says the same to every prompt, as bytes or as text; or neither."""

    said: str = SAID
    gives: str = "ids"

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        done = super().generate(requests, observe)
        if self.gives == "texts":
            return replace(done, texts=(self.said,) * len(requests))
        ids = tuple(self.said.encode())
        return replace(done, output_ids=(ids,) * len(requests)) if self.gives == "ids" else done


@dataclass(frozen=True)
class SayingBackend:
    clock: Clock
    gives: str

    def why_unavailable(self) -> str | None:
        return None

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[Session]:
        with SimulatedBackend(self.clock).open(config) as session:
            yield SayingSession(session, unbent, gives=self.gives)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Of four prompts that are used two have the answer 42, one another, and one has none."""
    path = tmp_path / "questions.jsonl"
    answers = [{"answer": "42"}, {"answer": "#### 42"}, {"answer": "41"}, {}]
    path.write_text(
        "\n".join(json.dumps({"prompt": f"Question {at}?", **one}) for at, one in enumerate(answers))
    )
    return path


def judged(path: Path, *, gives: str = "ids", **changes: Any) -> ExperimentResult:
    dataset = {"name": str(path), **changes.pop("dataset", {})}
    usual = {"output_length": "natural", "repeats": {"count": 3}, "passes": {"seconds": 1.0}}
    asked = config(dataset=dataset, **{**usual, **changes})
    runs = VirtualRuns(load=lambda clock: SayingBackend(clock, gives))
    return virtual_experiment(asked, runs, strict=False)


@pytest.mark.parametrize("gives", ["ids", "texts"])
def test_a_dataset_with_references_yields_accuracy_and_joules_per_correct_answer(
    questions: Path, gives: str
) -> None:
    result = judged(questions, gives=gives)
    found, energy = result.quality, result.energy
    assert found is not None
    # Once in each of three runs.
    assert (found.prompts, found.judged, found.correct, found.cut_or_padded) == (3, 9, 6, False)
    assert [(one.matcher, one.judged, one.correct) for one in found.matchers] == [("number", 9, 6)]
    assert found.accuracy == accuracy([1.0, 1.0, 0.0])
    assert energy.per_correct_answer == per_correct_answer(energy.per_request, found.accuracy)
    assert energy.per_request.value is not None
    assert energy.per_correct_answer.value == pytest.approx(energy.per_request.value * 1.5)
    assert "66.7 %" in summary_text(result)
    ((_, row),) = parts(result)
    assert row["accuracy"].value == found.accuracy.value


def test_drawn_tokens_are_judged_in_every_walk(questions: Path) -> None:
    result = judged(questions, decoder={"temperature": 0.7})
    assert result.quality is not None
    assert result.quality.judged * 4 == result.tokens.requests * 3
    assert result.quality.prompts == 3


def test_answers_of_equal_length_are_judged_only_where_that_is_asked_and_say_so(questions: Path) -> None:
    assert judged(questions, output_length="exact").quality is None
    found = judged(questions, output_length="exact", dataset={"matcher": "number"}).quality
    assert found is not None
    assert found.cut_or_padded
    assert judged(questions, dataset={"matcher": "none"}).quality is None


def test_an_engine_without_text_has_no_accuracy_and_says_why(questions: Path) -> None:
    found = judged(questions, gives="nothing").quality
    assert found is not None
    assert (found.accuracy.value, found.judged) == (None, 0)
    assert found.accuracy.reason


def test_token_ids_are_judged_in_a_process_of_its_own_with_the_models_tokenizer() -> None:
    asked = ExperimentConfig(
        model="random:llama-3.2-1b", backend="pytorch", dataset=DatasetConfig(keep_answers=True)
    )
    done = Completion(0, 0, 0, 4, 8, 1, 1, None, 2, "eos")
    walk = Generation(
        tuple(replace(done, index=at, finish="error" if at == 3 else "eos") for at in range(4)),
        output_ids=(tuple(b"it is 42"), tuple(b"41"), tuple(b"42"), tuple(b"42")),
    )
    answer = Reference("number", ("42",))
    assert judge(asked, (answer, answer, None, answer), [walk]) == [
        Verdict("number", correct=True, answer="it is 42"),
        Verdict("number", correct=False, answer="41"),
        None,
        None,
    ]


def test_asking_for_what_no_record_has_is_refused_with_the_key_to_set(questions: Path) -> None:
    for dataset in ({"answer": "target"}, {"matcher": "choice"}):
        asked = config(dataset={"name": str(questions), **dataset}, n=1)
        with pytest.raises(ConfigError, match=r"no prompt of|holds no|reference"):
            load_prompts(asked)


@pytest.mark.parametrize("kept", [True, False])
def test_no_text_of_an_answer_is_stored_unless_it_is_asked_for(
    questions: Path, tmp_path: Path, kept: bool
) -> None:
    result = judged(questions, dataset={"keep_answers": kept}, output_dir=str(tmp_path / "out"))
    stored = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    holding_text = {path.name for path in stored if b"secret" in path.read_bytes()}
    assert holding_text == ({"events.jsonl"} if kept else set())
    folder = tmp_path / "out" / result.experiment_id
    again = metrics(read_measurements(folder, [1, 2, 3]))
    assert result.quality is not None
    assert again.quality == result.quality


def test_a_study_keeps_the_rows_that_hold_the_baselines_accuracy() -> None:
    study = StudyResult.load(Path(__file__).parents[1] / "data" / "study-schema-1")
    with pytest.raises(ConfigError, match="no experiment of this study has an accuracy"):
        holding(study, "accuracy>=95%")
    shares = (0.80, 0.77, 0.75)
    rows = tuple(
        study.rows[0].model_copy(update={"label": f"{share}", "accuracy": Estimate(share, "1", share, share)})
        for share in shares
    )
    study = study.model_copy(update={"rows": (*rows, study.rows[1])})
    assert [row.label for row in holding(study, "accuracy >= 95 %").rows] == ["0.8", "0.77"]
    assert len(holding(study, "accuracy>=90%").rows) == 3
    for rule in ("accuracy>95%", "accuracy>=0.95", "joules>=95%"):
        with pytest.raises(ConfigError, match="form"):
            holding(study, rule)
    assert "80 % [80 to 80]" in as_text(study)


def quality_of(correct: int, prompts: int, *, matcher: str = "number", cut: bool = False) -> Quality:
    shares = [1.0] * correct + [0.0] * (prompts - correct)
    matchers = (MatcherCount(matcher=matcher, judged=prompts, correct=correct),)
    return Quality(
        accuracy=accuracy(shares),
        prompts=prompts,
        judged=prompts,
        correct=correct,
        matchers=matchers,
        cut_or_padded=cut,
    )


def test_a_difference_of_accuracies_has_newcombes_interval() -> None:
    # Newcombe (1998), table II, method 10: 56/70 against 48/80, difference 0.2, 0.0524 to 0.3339.
    found, chance = accuracy_difference(quality_of(48, 80), quality_of(56, 70), alpha=0.05)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert chance == pytest.approx(0.0081, abs=5e-4)
    # 9/10 against 3/10: 0.1705 to 0.8090.
    found, _ = accuracy_difference(quality_of(3, 10), quality_of(9, 10), alpha=0.05)
    assert (found.low, found.high) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    # 10/10 against 0/10, and nothing against nothing.
    found, _ = accuracy_difference(quality_of(0, 10), quality_of(10, 10), alpha=0.05)
    assert (found.low, found.high) == pytest.approx((0.6075, 1.0), abs=5e-5)
    found, chance = accuracy_difference(quality_of(0, 10), quality_of(0, 10), alpha=0.05)
    assert (found.value, chance) == (0.0, 1.0)


def test_a_null_difference_of_accuracies_is_called_at_most_as_often_as_allowed() -> None:
    draw = random.Random(3)
    called = 0
    for _ in range(2000):
        a, b = (sum(draw.random() < 0.7 for _ in range(60)) for _ in range(2))
        found, _ = accuracy_difference(quality_of(a, 60), quality_of(b, 60), alpha=0.05)
        assert found.low is not None
        assert found.high is not None
        called += not found.low <= 0 <= found.high
    assert called / 2000 <= 0.06


def answering(name: str, correct: int, prompts: int = 200, **more: Any) -> ExperimentResult:
    whole = example_result(energy="measured", experiment_id=name)
    judged = quality_of(correct, prompts, **more)
    cost = per_correct_answer(whole.energy.per_request, judged.accuracy)
    energy = whole.energy.model_copy(update={"per_correct_answer": cost})
    return whole.model_copy(update={"quality": judged, "energy": energy})


def test_compare_says_whether_one_is_right_less_often(tmp_path: Path) -> None:
    folders = [str(answering(*one).save(tmp_path)) for one in (("a", 160), ("b", 120), ("c", 158))]
    outcome = CliRunner().invoke(app, ["compare", *folders[:2], "--json"])
    ratios = {one["name"]: one for one in json.loads(outcome.stdout)["ratios"]}
    one = ratios["accuracy"]
    assert (one["verdict"], one["difference"]["value"]) == ("lower", pytest.approx(-0.2))
    assert one["difference"]["high"] < 0
    assert ratios["energy_per_correct_answer"]["verdict"] == "higher"
    outcome = CliRunner().invoke(app, ["compare", *folders, "--json"])
    pairs = {
        pair["label"]: {one["name"]: one["verdict"] for one in pair["comparison"]["ratios"]}
        for pair in json.loads(outcome.stdout)["pairs"]
    }
    assert (pairs["b"]["accuracy"], pairs["c"]["accuracy"]) == ("lower", "no difference shown")
    limit = ["--fail-on-regression", "accuracy>5%"]
    assert CliRunner().invoke(app, ["compare", *folders[:2], *limit]).exit_code == 4
    assert CliRunner().invoke(app, ["compare", folders[0], folders[2], *limit]).exit_code == 0
    for form in ("text", "markdown", "latex", "csv", "github"):
        assert CliRunner().invoke(app, ["compare", *folders, "--format", form]).exit_code == 0


@pytest.mark.parametrize("more", [{"matcher": "choice"}, {"cut": True}])
def test_unlike_answers_get_no_verdict(more: dict[str, Any]) -> None:
    found = {one.name: one for one in compare(answering("a", 160), answering("b", 20, **more)).ratios}
    for name in ("accuracy", "energy_per_correct_answer"):
        assert found[name].verdict is None
        assert found[name].withheld


def with_accuracies(*shares: tuple[float, float, float]) -> StudyResult:
    study = StudyResult.load(Path(__file__).parents[1] / "data" / "study-schema-1")
    row = study.rows[0]
    rows = tuple(
        row.model_copy(update={"label": f"{one}", "accuracy": Estimate(one, "1", low, high)})
        for low, one, high in shares
    )
    return study.model_copy(update={"rows": rows})


def test_holding_says_whether_it_is_by_interval_or_by_value() -> None:
    study = with_accuracies((0.79, 0.80, 0.81), (0.785, 0.79, 0.795), (0.70, 0.79, 0.85), (0.6, 0.65, 0.7))
    study = study.model_copy(
        update={"rows": (*study.rows, study.rows[0].model_copy(update={"label": "x", "accuracy": None}))}
    )
    held = holding(study, "accuracy>=95%")
    assert [row.accuracy for row in held.by_interval] == [study.rows[0].accuracy, study.rows[1].accuracy]
    assert [row.accuracy for row in held.by_value] == [study.rows[2].accuracy]
    assert (held.baseline, held.below, held.unjudged) == ("0.8", ("0.65",), ("x",))


def test_show_keeps_what_holds_and_names_the_cheapest_of_it(tmp_path: Path) -> None:
    study = with_accuracies((0.79, 0.80, 0.81), (0.785, 0.79, 0.795), (0.6, 0.65, 0.7))
    costs = (2.0, 1.0, 0.1)
    rows = tuple(
        row.model_copy(
            update={
                "label": f"costs {cost}",
                "valid": True,
                "runs": 3,
                "outcome": "done",
                "figures": tuple(
                    row.figures[0].model_copy(update={"energy_per_output_token_j": cost * one})
                    for one in (0.99, 1.0, 1.01)
                ),
            }
        )
        for row, cost in zip(study.rows, costs, strict=True)
    )
    study.model_copy(update={"rows": rows}).write(tmp_path)

    def show(*more: str) -> Any:
        return CliRunner().invoke(app, ["show", str(tmp_path), *more])

    assert "Fewest joules per output token: costs 0.1" in show().stdout
    shown = show("--holds", "accuracy>=95%").stdout
    assert "Fewest joules per output token: costs 1.0" in shown
    assert "by the 95 % interval" in shown
    kept = json.loads(show("--holds", "accuracy>=95%", "--json").stdout)["rows"]
    assert [row["label"] for row in kept] == ["costs 2.0", "costs 1.0"]
    assert show("--holds", "accuracy>95%").exit_code == 2
    assert show("--holds", "accuracy>=95%", "--field", "name").exit_code == 2
