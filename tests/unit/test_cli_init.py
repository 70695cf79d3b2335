"""`llem init`: a first file that fits this machine and is valid, and nothing that was there is lost."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llenergymeasure.cli import app
from llenergymeasure.config import loader
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.yaml import read_mapping
from llenergymeasure.doctor.draft import Machine, draft, look
from llenergymeasure.study import check

LLEM = [sys.executable, "-m", "llenergymeasure"]
WITH_GPU = Machine("NVIDIA H200", ("vllm", "pytorch"), ("smollm2-135m",), ("gpu:GPU-1", "cpu:0"), True)
WITHOUT = Machine("no GPU", ("pytorch", "simulated"), ("smollm2-135m",), (), False)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def there() -> list[str]:
    return [one.name for one in Path().iterdir()]


def llem(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments])


@pytest.mark.parametrize("machine", [WITH_GPU, WITHOUT], ids=["with a GPU", "without"])
@pytest.mark.parametrize("backend", ["pytorch", "vllm", "llamacpp", "simulated"])
@pytest.mark.parametrize("model", ["smollm2-135m", "random:gpt2", "/a # b/model: x", "123"])
def test_what_is_drafted_is_valid_for_any_machine_engine_and_model(
    machine: Machine, backend: str, model: str, tmp_path: Path
) -> None:
    for study, problems in ((False, loader.problems), (True, check.problems)):
        file = tmp_path / "drafted.yaml"
        file.write_text(draft(machine, model=model, backend=backend, study=study, name=file.name))
        assert list(problems(file)) == []
        content = read_mapping(file)
        assert (content["model"], content["backend"], content["output_dir"]) == (model, backend, "results")
        assert ("sweep" in content) is study
        assert content.get("energy") == ({"require_measured": True} if machine.measured else None)


def test_a_machine_with_a_gpu_gets_more_work() -> None:
    def drafted(machine: Machine) -> int:
        Path("one.yaml").write_text(
            draft(machine, model="gpt2", backend="pytorch", study=False, name="one.yaml")
        )
        return load_experiment_config("one.yaml").n

    assert drafted(WITH_GPU) > drafted(WITHOUT)


def test_this_machine_is_looked_at_and_what_runs_no_model_comes_last() -> None:
    found = look()
    assert found.engines[-1] == "simulated"
    assert "openai" not in found.engines
    assert found.models[0] == "smollm2-135m"


@pytest.mark.parametrize(("options", "file"), [((), "experiment.yaml"), (("--study",), "study.yaml")])
def test_without_questions_a_file_that_runs_is_written(options: tuple[str, ...], file: str) -> None:
    assert llem("--yes", *options).exit_code == 0
    assert there() == [file]
    assert CliRunner().invoke(app, ["config", "validate", file]).exit_code == 0
    assert CliRunner().invoke(app, ["run", file, "--dry-run"]).exit_code == 0


def test_what_exists_is_replaced_only_by_force() -> None:
    Path("experiment.yaml").write_text("mine")
    refused = llem("--yes")
    assert refused.exit_code == 2
    assert Path("experiment.yaml").read_text() == "mine"
    assert "--force" in refused.stderr
    assert llem("--yes", "--force", "-m", "gpt2").exit_code == 0
    assert load_experiment_config("experiment.yaml").model == "gpt2"
    # A link that leads nowhere is something that exists, too.
    Path("link.yaml").symlink_to("nowhere.yaml")
    assert llem("link.yaml", "--yes").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["none/there.yaml", "--yes"], 2),
        (["file.txt", "--yes"], 2),
        ([".", "--yes"], 2),
        (["--yes", "-b", "pytroch"], 2),
        (["--yes", "-b", "openai"], 2),
        (["--yes", "-m", "/no/such/model"], 1),
        ([], 2),
    ],
)
def test_what_cannot_be_done_names_the_way_out_and_leaves_nothing(arguments: list[str], code: int) -> None:
    result = llem(*arguments)
    assert result.exit_code == code
    assert "hint: " in result.stderr
    assert there() == []


def test_a_full_disk_leaves_nothing_and_is_no_question_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **_: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    result = llem("--yes")
    assert result.exit_code == 2
    assert "hint: free space there" in result.stderr
    assert there() == []


def test_an_engine_that_does_not_exist_leads_to_the_one_that_was_meant() -> None:
    said = llem("--yes", "-b", "pytroch").stderr
    assert "did you mean pytorch?" in said
    assert "validation error" not in said


def test_three_questions_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*LLEM, "init"], stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL) as child:
        os.close(theirs)
        # A name that no engine has is asked for again; an empty answer takes what is offered.
        for answer in ("pytroch", "simulated", "", "study"):
            said = ""
            while not said.endswith("] "):
                said += os.read(ours, 4096).decode()
            os.write(ours, f"{answer}\n".encode())
        assert child.wait(timeout=60) == 0
    os.close(ours)
    content = read_mapping(Path("study.yaml"))
    assert (content["backend"], content["model"]) == ("simulated", "smollm2-135m")
    assert content["sweep"] == {"simulated.batch_size": [1, 4]}


def test_ctrl_d_is_no_answer() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*LLEM, "init"], stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL) as child:
        os.close(theirs)
        said = ""
        while not said.endswith("] "):
            said += os.read(ours, 4096).decode()
        os.write(ours, b"\x04")
        assert child.wait(timeout=60) == 2
    os.close(ours)
    assert there() == []
