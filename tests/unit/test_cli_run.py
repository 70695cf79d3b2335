from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from example_result import example_result
from pydantic import ValidationError
from typer.testing import CliRunner

from llenergymeasure import __version__
from llenergymeasure.cli import app
from llenergymeasure.config.engines import backend_names
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import (
    BackendError,
    ConfigError,
    ExperimentError,
    ExperimentInterrupted,
    ExperimentTimeout,
    LLEMError,
    PreFlightError,
    ResultError,
)
from llenergymeasure.records import RunFailure
from llenergymeasure.results.models import RunPart

RUN = "llenergymeasure.cli.run"
MODEL = ["run", "--model", "gpt2"]


@pytest.fixture(autouse=True)
def _nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("LLEM_"):
            monkeypatch.delenv(name)


@contextmanager
def replaced(**with_what: Any) -> Iterator[None]:
    """The seam of the command line: names that `cli/run.py` binds, replaced for a while."""
    with ExitStack() as stack:
        for name, stand_in in with_what.items():
            stack.enter_context(patch(f"{RUN}.{name}", stand_in))
        yield


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def unsaved_config() -> MagicMock:
    return MagicMock(output_dir=None)


def validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig(model="gpt2", backend="pytorh")
    return caught.value


def test_run_help() -> None:
    outcome = invoke("run", "--help")
    assert outcome.exit_code == 0
    assert "Run an LLM efficiency experiment" in outcome.output
    options = (
        "--model -m --backend -b --dataset -d -n --batch-size --precision -p --output -o --dry-run "
        "--quiet -q --verbose -v --json --set --meter --preset --strict"
    )
    for option in options.split():
        assert option in outcome.output


def test_run_version() -> None:
    outcome = invoke("--version")
    assert (outcome.exit_code, outcome.output) == (0, f"llem v{__version__}\n")


def test_run_no_args_exits_2() -> None:
    outcome = invoke("run")
    assert outcome.exit_code == 2
    assert outcome.output.startswith("ConfigError: ")
    assert outcome.output.count("llem run ") == 2


def test_run_config_error_exits_2() -> None:
    failing = MagicMock(side_effect=ConfigError("no such thing", hint="try another"))
    with replaced(load_experiment_config=failing):
        outcome = invoke(*MODEL)
    assert (outcome.exit_code, outcome.output) == (2, "ConfigError: no such thing\nhint: try another\n")


def test_run_validation_error_exits_2() -> None:
    with replaced(load_experiment_config=MagicMock(side_effect=validation_error())):
        outcome = invoke(*MODEL)
    assert outcome.exit_code == 2
    assert outcome.output.splitlines() == [
        "Config validation failed (1 error):",
        (
            "  backend: 'pytorh' is not valid. Did you mean: pytorch? "
            f"Valid values: {', '.join(backend_names())}"
        ),
    ]


def test_run_misspelt_backend_exits_2() -> None:
    outcome = invoke(*MODEL, "--backend", "pytorh")
    assert outcome.exit_code == 2
    assert "Did you mean: pytorch?" in outcome.output


def failing_run(error: BaseException, *arguments: str) -> Any:
    with replaced(
        load_experiment_config=MagicMock(return_value=unsaved_config()),
        run_experiment=MagicMock(side_effect=error),
    ):
        return invoke(*MODEL, *arguments)


def test_run_preflight_error_exits_1() -> None:
    outcome = failing_run(PreFlightError("no GPU here", hint="use --backend simulated"))
    assert outcome.exit_code == 1
    assert "PreFlightError: no GPU here\nhint: use --backend simulated\n" in outcome.output


def test_run_experiment_error_exits_1() -> None:
    outcome = failing_run(ExperimentError("the worker died"))
    assert outcome.exit_code == 1
    assert "ExperimentError: the worker died\n" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackendError("x"), 1),
        (ResultError("x"), 1),
        (LLEMError("x"), 1),
        (ExperimentTimeout("x"), 124),
        (ExperimentInterrupted("x"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_run_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    outcome = failing_run(error)
    assert outcome.exit_code == code
    assert "Traceback" not in outcome.output


def test_run_verbose_shows_what_the_worker_said_and_quiet_does_not_hide_errors() -> None:
    failure = RunFailure("r1", "measure", "crash", "gone", traceback="WORKER TRACE", log_tail="LAST WORDS")
    error = ExperimentError("the worker died", failure=failure)
    plain = failing_run(error, "-q").output
    assert plain == "ExperimentError: the worker died\nhint: -v shows the output of the worker\n"
    told = failing_run(error, "-v").output
    assert "LAST WORDS" in told
    assert "WORKER TRACE" in told
    assert "Traceback (most recent call last)" in told


def test_run_bug_is_one_line_and_a_log(tmp_path: Path) -> None:
    outcome = failing_run(KeyError("surprise"), "-q")
    assert outcome.exit_code == 1
    assert outcome.output.count("\n") == 1
    assert "unexpected KeyError: 'surprise'; this is a bug in llem" in outcome.output
    (log,) = (tmp_path / "state").rglob("*.log")
    assert str(log) in outcome.output
    assert "Traceback" in log.read_text()


def test_run_bug_whose_log_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    outcome = failing_run(KeyError("surprise"), "-q")
    assert outcome.exit_code == 1
    assert "could not be written" in outcome.output
    assert "Traceback" in failing_run(KeyError("surprise"), "-v").output


def dry_run(**more: Any) -> Any:
    with replaced(
        load_experiment_config=MagicMock(return_value=unsaved_config()),
        estimate_vram=more.get("estimate_vram", MagicMock()),
        get_gpu_vram_gb=more.get("get_gpu_vram_gb", MagicMock(return_value=24.0)),
        print_dry_run=more.get("print_dry_run", MagicMock()),
        run_experiment=MagicMock(side_effect=AssertionError("a dry-run must not run")),
    ):
        return invoke("run", "experiment.yaml", "--dry-run")


def test_run_dry_run_exits_0() -> None:
    assert dry_run().exit_code == 0


def test_run_dry_run_calls_estimate_vram() -> None:
    estimate, memory, shown = MagicMock(), MagicMock(return_value=24.0), MagicMock()
    outcome = dry_run(estimate_vram=estimate, get_gpu_vram_gb=memory, print_dry_run=shown)
    assert outcome.exit_code == 0
    estimate.assert_called_once()
    assert len(estimate.call_args.args) == 1
    memory.assert_called_once_with()
    shown.assert_called_once()


def succeed(*arguments: str, config: Any = None, result: Any = None, **stand_ins: Any) -> Any:
    stand_ins.setdefault("print_result_summary", MagicMock())
    with replaced(
        load_experiment_config=MagicMock(return_value=config or unsaved_config()),
        run_experiment=MagicMock(return_value=MagicMock() if result is None else result),
        **stand_ins,
    ):
        return invoke(*MODEL, *arguments)


def test_run_quiet_flag_accepted() -> None:
    for flag in ("--quiet", "-q"):
        header = MagicMock()
        outcome = succeed(flag, print_experiment_header=header)
        assert (outcome.exit_code, outcome.output) == (0, "")
        header.assert_not_called()


def test_run_success_prints_summary() -> None:
    result, summary = MagicMock(), MagicMock()
    outcome = succeed(result=result, print_result_summary=summary)
    assert outcome.exit_code == 0
    summary.assert_called_once_with(result)


def test_run_works_with_bare_mocks_and_says_how_to_keep_the_result() -> None:
    for flag in ([], ["-v"]):
        outcome = succeed(*flag, tqdm=MagicMock())
        assert outcome.exit_code == 0
        assert "--output results" in outcome.stderr


def test_how_to_keep_the_result_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = succeed(tqdm=MagicMock(), print_experiment_header=MagicMock()).stderr
    assert "to keep the result" in said
    assert max(map(len, said.splitlines())) <= 40


def test_run_saves_where_it_was_told_before_it_prints() -> None:
    result = MagicMock()
    result.save.return_value = Path("results/gpt2_1")
    outcome = succeed(config=MagicMock(output_dir=Path("results")), result=result)
    result.save.assert_called_once_with(Path("results"))
    assert "Saved: results/gpt2_1" in outcome.stderr
    assert outcome.stdout == ""


def test_run_shows_what_was_measured_even_where_it_could_not_be_saved() -> None:
    result = example_result()
    failing = MagicMock(side_effect=ResultError("no room", hint="mv a b", result=result))
    with replaced(load_experiment_config=MagicMock(return_value=unsaved_config()), run_experiment=failing):
        outcome = invoke(*MODEL, "--json", "-q")
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout) == result.as_json()
    assert outcome.stderr.splitlines() == ["ResultError: no room", "hint: mv a b"]


def test_run_overrides_hold_only_the_flags_that_were_given() -> None:
    cases = {
        (): {"model": "gpt2"},
        ("-b", "simulated", "-n", "5"): {"model": "gpt2", "backend": "simulated", "n": 5},
        ("--batch-size", "8"): {"model": "gpt2", "--batch-size": 8},
        ("-d", "synthetic", "-o", "out"): {"model": "gpt2", "dataset": "synthetic", "output_dir": "out"},
        ("--meter", "rapl", "-p", "fp16"): {"model": "gpt2", "energy.meter": "rapl", "precision": "fp16"},
        ("--set", "decoder.top_k=3", "--set", "baseline.seconds=0"): {
            "model": "gpt2",
            "decoder.top_k": 3,
            "baseline.seconds": 0,
        },
    }
    for arguments, expected in cases.items():
        load = MagicMock(return_value=unsaved_config())
        with replaced(
            load_experiment_config=load, run_experiment=MagicMock(), print_result_summary=MagicMock()
        ):
            assert invoke(*MODEL, *arguments).exit_code == 0
        load.assert_called_once_with(path=None, cli_overrides=expected)


@pytest.mark.parametrize("strict", [True, False])
def test_run_hands_origins_progress_and_strictness_to_the_experiment(strict: bool) -> None:
    bar = MagicMock()
    bar.__enter__.return_value = bar
    asked = []

    def experiment(
        config: ExperimentConfig, *, origins: dict[str, str], progress: Any, remark: Any, strict: bool
    ) -> Any:
        assert origins["model"] == "flag"
        assert origins["n"] == "default"
        asked.append(strict)
        progress("loading")
        progress("pass 2 of 5", done=2.0, total=5.0, step=5, steps=8, run=2, runs=3, left_s=60.0)
        assert bar.total == 5.0
        assert bar.n == pytest.approx(2.0, abs=0.5)
        remark("the budget leaves time for one run")
        return MagicMock()

    made = MagicMock(return_value=bar)
    with replaced(run_experiment=experiment, tqdm=made, print_result_summary=MagicMock()):
        outcome = invoke(*MODEL, *(["--strict"] if strict else []))
    assert outcome.exit_code == 0, outcome.output
    assert asked == [strict]
    assert "the budget leaves time for one run" in outcome.stderr
    assert made.call_args.kwargs["total"] is None
    assert made.call_args.kwargs["disable"] is True
    shown = [call.args[0] for call in bar.set_description_str.call_args_list]
    assert "loading" in shown[0]
    assert "pass 2 of 5" in shown[-1]


def test_run_of_which_a_part_failed_is_saved_and_shown_and_exits_1() -> None:
    result = example_result()
    failed = RunPart(index=2, outcome="failed", reason="out of memory")
    result = result.model_copy(update={"runs": (result.runs[0], failed, result.runs[2])})
    outcome = succeed("--json", "-q", result=result)
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout) == result.as_json()
    # The run itself has said so when it failed, and the summary has a row for it.
    assert outcome.stderr == ""


def test_run_json_prints_the_object_of_the_file_and_nothing_else_on_stdout() -> None:
    result, summary = example_result(), MagicMock()
    outcome = succeed("--json", result=result, print_result_summary=summary)
    assert json.loads(outcome.stdout) == result.as_json()
    summary.assert_not_called()


def test_run_verbose_explains_first_so_that_warnings_and_remedies_stand_last() -> None:
    printed = MagicMock()
    outcome = succeed("-v", print_result_details=printed.details, print_result_summary=printed.summary)
    assert outcome.exit_code == 0
    assert [call[0] for call in printed.mock_calls if call[0] in {"details", "summary"}] == [
        "details",
        "summary",
    ]


def test_run_dry_run_json_holds_configuration_origins_plan_and_memory() -> None:
    outcome = invoke("run", "--model", "random:llama-3.2-1b", "--dry-run", "--json")
    shown = json.loads(outcome.stdout)
    assert shown["config"]["model"] == "random:llama-3.2-1b"
    assert shown["origins"]["model"] == "flag"
    assert shown["vram"]["total_bytes"] == sum(part["bytes"] for part in shown["vram"]["parts"])
    assert shown["plan"]["expected_s"][0] <= shown["plan"]["expected_s"][1]


def test_run_dry_run_has_a_line_for_each_reason_to_refuse_the_run() -> None:
    long = ["--set", "max_output_tokens=100000", "--set", "pytorch.revision=nope"]
    outcome = invoke("run", "--model", "random:gpt2", "--dry-run", *long)
    assert outcome.exit_code == 0
    head = "This run would be refused: "
    told = [line for line in outcome.stdout.splitlines() if line.startswith(head)]
    assert any("more than the 1024 tokens of random:gpt2's context" in line for line in told)
    assert any("pytorch.revision 'nope' names a revision on the hub" in line for line in told)


def test_run_dry_run_shows_every_value_and_the_formula() -> None:
    outcome = invoke("run", "--model", "random:llama-3.2-1b", "--preset", "smoke", "--dry-run")
    assert outcome.exit_code == 0
    words = " ".join(outcome.stdout.split())
    for said in (
        "model random:llama-3.2-1b flag",
        "passes.seconds 1.0 preset smoke",
        "top_p = 1.0",
        "trust_remote_code = false",
        "weights 2.47 GB 1,235,814,400 parameters × 2 bytes",
        "times out after 60 min (timeout_s)",
    ):
        assert said in words


@pytest.mark.parametrize("presses", [1, 3])
def test_run_ctrl_c_lets_the_clean_up_finish_and_exits_130(presses: int) -> None:
    before, cleaned = signal.getsignal(signal.SIGINT), []

    def experiment(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            for _press in range(presses - 1):
                os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)

    with replaced(load_experiment_config=MagicMock(return_value=unsaved_config()), run_experiment=experiment):
        outcome = invoke(*MODEL)
    assert outcome.exit_code == 130
    assert cleaned == [True]
    assert outcome.output.endswith("Interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_run_into_a_closed_pipe_has_no_traceback() -> None:
    command = [sys.executable, "-c", "from llenergymeasure.cli import app; app()"]
    child = subprocess.Popen(
        [*command, "run", "--model", "random:llama-3.2-1b", "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=30) == 1


def test_run_on_a_terminal_without_unicode_still_prints() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from llenergymeasure.cli import app; app()",
            *MODEL[:1],
            "-m",
            "random:llama-3.2-1b",
            "--dry-run",
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_words_for_an_error_can_be_replaced() -> None:
    explain = MagicMock(return_value="in other words")
    with replaced(load_experiment_config=MagicMock(side_effect=ConfigError("no")), format_error=explain):
        done = invoke(*MODEL)
    assert done.exit_code == 2
    assert "in other words" in done.output
    explain.assert_called_once()
