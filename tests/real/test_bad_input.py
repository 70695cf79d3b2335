"""Runs that leave little to measure, as real processes: what is said, and that every file is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llenergymeasure import ExperimentResult
from llenergymeasure.cli import app
from llenergymeasure.cli._display import print_result_details, print_result_summary
from llenergymeasure.results.schema import result_schema

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LLEM = Path(sys.executable).with_name("llem")
SIMULATED = ["-b", "simulated", "--model", "any", "-d", "synthetic"]
# Fast, and no idle windows but where a test wants them.
QUICK = ("passes.seconds=1", "passes.count=3", "repeats.count=1", "baseline.seconds=0")
TINY = ("max_input_tokens=32", "max_output_tokens=4", "pytorch.threads=1", "warmup.max_seconds=2")
VOCABULARY, CONTEXT = 97, 64

Measured = Callable[..., ExperimentResult]


@pytest.fixture
def measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Measured:
    """Runs llem, checks everything that it wrote and everything that reads it, and returns the result."""

    def run(*arguments: str, settings: tuple[str, ...] = (), site: Path | None = None) -> ExperimentResult:
        done = llem(
            "run", *arguments, "-o", "out", "--json", *settings_of(*QUICK, *settings), cwd=tmp_path, site=site
        )
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "out").iterdir()
        assert strict(done.stdout) == strict((folder / "result.json").read_text())
        check_files(folder)
        check_readers(folder)
        result = ExperimentResult.load(folder)
        capsys.readouterr()
        print_result_summary(result)
        print_result_details(result)
        shown = "".join(capsys.readouterr()).lower().replace("info", "")
        assert not {"nan", "inf", "traceback"} & set(shown.split())
        return result

    return run


def settings_of(*pairs: str) -> list[str]:
    """The last of several for one key counts."""
    last = {pair.partition("=")[0]: pair for pair in pairs}
    return [word for pair in last.values() for word in ("--set", pair)]


def llem(*arguments: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLEM_CACHE_DIR": str(cwd / "cache")}
    if site is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [LLEM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def strict(text: str) -> object:
    """JSON without NaN and Infinity, which Python's parser else lets pass."""

    def refuse(name: str) -> object:
        raise AssertionError(f"{name} stands in a file")

    return json.loads(text, parse_constant=refuse)


def check_files(folder: Path) -> None:
    jsonschema.validate(strict((folder / "result.json").read_text()), result_schema())
    runs = list((folder / "runs").iterdir())
    assert runs
    for run in runs:
        assert [strict(line) for line in (run / "events.jsonl").read_text().splitlines()]
        for name in ("requests.parquet", "power.parquet"):
            schema = pq.read_schema(run / name)
            # Whole numbers and words can't be NaN.
            assert not [field.name for field in schema if pa.types.is_floating(field.type)]


def check_readers(folder: Path) -> None:
    def read(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "values are the same" in read("recompute", str(folder))
    # A copy under another name: a result is not compared with itself.
    stored = ExperimentResult.load(folder)
    other = folder.parents[1] / "other.json"
    other.write_text(json.dumps({**stored.as_json(), "experiment_id": "other"}))
    allowed = ("--allow", "single_process")
    assert "Energy per output token" in read("compare", str(folder), str(other), *allowed)
    strict(read("compare", str(folder), str(other), *allowed, "--json"))
    if stored.energy.uncertainty is not None:
        assert "Sums that should agree" in read("show", str(folder), "--uncertainty")


def said(result: ExperimentResult) -> dict[str, str]:
    return {warning.code: warning.message for warning in result.warnings}


def test_a_target_that_can_not_be_met_ends_at_the_budget_and_says_how_near_it_came(
    measured: Measured,
) -> None:
    result = measured(
        *SIMULATED,
        "-n",
        "2",
        settings=("passes.target=0.0001", "simulated.scatter=0.05", "passes.budget.passes=4"),
    )
    (run,) = result.measured
    assert run.window is not None
    assert len(run.window.passes) == 4
    assert "± 0.01 % was wanted" in said(result)["target_not_met"]
    assert result.energy.per_output_token.low is not None


def test_a_budget_shorter_than_one_pass_leaves_one_pass_and_no_interval(measured: Measured) -> None:
    result = measured(*SIMULATED, "-n", "2", settings=("passes.budget.seconds=0.01",))
    (run,) = result.measured
    assert run.window is not None
    assert len(run.window.passes) == 1
    assert {"single_pass", "single_process"} <= set(said(result))
    cost = result.energy.per_output_token
    assert (cost.low, cost.reason) == (None, "1 repetition: an interval needs 3")


def test_a_budget_too_short_for_an_interval_is_refused_before_a_pass_under_strict(tmp_path: Path) -> None:
    short = settings_of(*QUICK, "passes.budget.seconds=0.01")
    done = llem("run", *SIMULATED, "-n", "2", "--strict", "-o", "out", *short, cwd=tmp_path)
    assert done.returncode == 2
    assert "leaves 1 of the 3 passes" in done.stderr
    assert "passes.budget.seconds=" in done.stderr
    assert not (tmp_path / "out").exists()


def test_outputs_that_end_at_once_have_no_time_per_further_token(measured: Measured) -> None:
    result = measured(
        *SIMULATED, "-n", "4", settings=("output_length=natural", "simulated.eos_probability=1")
    )
    assert result.tokens.output == result.tokens.requests
    assert result.tokens.pinned_ok is None
    assert result.energy.per_output_token.value is not None
    tpot = result.performance.tpot_s.p50
    assert (tpot.value, tpot.reason) == (None, "no request produced two tokens")
    decode = result.energy.decode
    assert decode.value is None
    assert decode.reason


def test_a_single_request_is_measured(measured: Measured) -> None:
    result = measured(*SIMULATED, "-n", "1", settings=("baseline.seconds=1",))
    assert result.energy.per_request.value is not None
    assert result.performance.ttft_s.p50.low is not None
    assert "p99 needs 100 requests" in (result.performance.ttft_s.p99.reason or "")


# An engine that writes nothing


MUTE = '''
"""The simulated engine with the output of some requests taken away."""

from contextlib import contextmanager
from dataclasses import replace

from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.records import Generation


class Mute(SimulatedBackend):
    every = 1

    @contextmanager
    def open(self, config):
        with super().open(config) as session:
            generate = session.generate

            def silenced(requests, observe):
                done = generate(requests, observe).completions
                return Generation(tuple(self.told(one) for one in done))

            session.generate = silenced
            yield session

    def told(self, one):
        if one.index % self.every:
            return one
        return replace(one, output_tokens=0, t_first_ns=None, finish="eos")


class HalfMute(Mute):
    every = 2
'''
ENTRY_POINTS = "[llenergymeasure.backends]\nmute = mute:Mute\nhalf-mute = mute:HalfMute\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for the path, with the engine as a third party's package would bring it."""
    folder = tmp_path / "site"
    facts = folder / "mute-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "mute.py").write_text(MUTE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mute\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def test_no_output_at_all_is_a_cost_that_does_not_exist(measured: Measured, site: Path) -> None:
    result = measured(
        *("-b", "mute", "--model", "random:gpt2", "-d", "synthetic", "-n", "4"),
        settings=("output_length=natural", "max_output_tokens=16"),
        site=site,
    )
    assert (result.tokens.output, result.tokens.requests > 0) == (0, True)
    cost = result.energy.per_output_token
    assert (cost.value, cost.reason) == (None, "nothing was produced")
    assert result.energy.total.value is not None
    assert result.energy.per_request.value is not None
    assert result.performance.output_tokens_per_second.value == 0
    assert result.performance.ttft_s.p50.reason == "no first-token times"
    assert result.performance.flops.decode == 0


def test_requests_without_output_stand_beside_those_with_some(measured: Measured, site: Path) -> None:
    result = measured(
        *("-b", "half-mute", "--model", "random:gpt2", "-d", "synthetic", "-n", "4"),
        settings=("max_output_tokens=16",),
        site=site,
    )
    assert result.tokens.output == 8 * result.tokens.requests
    assert result.tokens.pinned_ok is False
    assert "output_not_pinned" in said(result)
    assert result.energy.per_output_token.value is not None
    assert result.performance.ttft_s.count == result.tokens.requests // 2
    assert result.performance.e2e_s.count == result.tokens.requests


# A model whose tokenizer has no token to pad with, and whose context is short


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("no-pad")
    letters = {chr(32 + at): at for at in range(95)} | {"?unknown?": 95, "?end?": 96}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="?unknown?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="?unknown?", eos_token="?end?"
    )
    assert made.pad_token is None
    made.save_pretrained(folder)
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=96,
            pad_token_id=None,
        )
    ).save_pretrained(folder)
    return folder


def prompts(folder: Path, *lengths: int) -> str:
    path = folder / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "abcdefgh"[at] * n}) + "\n" for at, n in enumerate(lengths))
    )
    return str(path)


def test_a_batch_is_padded_without_a_token_to_pad_with(
    measured: Measured, model: Path, tmp_path: Path
) -> None:
    dataset = prompts(tmp_path, 3, 20, 9, 32)
    result = measured("--model", str(model), "-d", dataset, "-n", "4", "--batch-size", "4", settings=TINY)
    walks = result.tokens.requests // 4
    assert result.tokens.input == result.tokens.local_input == (3 + 20 + 9 + 32) * walks
    assert result.tokens.output == 4 * 4 * walks
    assert result.tokens.pinned_ok is True
    assert not {"tokens_disputed", "output_not_pinned"} & set(said(result))


def test_prompts_longer_than_asked_for_are_cut_and_counted(
    measured: Measured, model: Path, tmp_path: Path
) -> None:
    dataset = prompts(tmp_path, 3, 500, 9, 1000)
    result = measured("--model", str(model), "-d", dataset, "-n", "4", "--batch-size", "2", settings=TINY)
    walks = result.tokens.requests // 4
    assert result.tokens.input == (3 + 32 + 9 + 32) * walks
    assert result.tokens.cut_prompts == 2


def test_more_than_the_context_holds_is_refused_before_anything_is_loaded(
    model: Path, tmp_path: Path
) -> None:
    dataset = prompts(tmp_path, 500)
    done = llem("run", "--model", str(model), "-d", dataset, "-n", "1", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"more than the {CONTEXT} tokens" in done.stderr
    assert "max_input_tokens 512 and max_output_tokens 128" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
