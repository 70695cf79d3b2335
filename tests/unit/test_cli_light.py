"""The way in: what is imported for what, and what Ctrl-C and a full disk do before a command has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LLEM = [sys.executable, "-m", "llenergymeasure"]
# As the console script does it, with SIGINT from within once the module named first is to be imported.
INTERRUPTED_AT = """
import os, signal, sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
            # Not in a call that Python resumes: the handler runs between two instructions.
            for _ in range(1000): pass
at = sys.argv.pop(1)
sys.meta_path.insert(0, Press())
from llenergymeasure.__main__ import main
main()
"""


def imported(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"], ["compare", "-h"]])
def test_version_and_help_need_no_command_and_no_model_of_pydantic(arguments: list[str]) -> None:
    loaded = imported("-m", "llenergymeasure", *arguments)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("llenergymeasure.")}
    assert rooms <= {"cli"}
    assert "llenergymeasure.cli.run" not in loaded
    assert "pydantic" not in loaded
    if arguments == ["--version"]:
        assert "typer" not in loaded


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = imported("-c", "import llenergymeasure")
    assert not {name for name in loaded if name.startswith(("llenergymeasure.", "pydantic", "typing"))}


def test_importing_the_command_loads_nothing_heavy() -> None:
    loaded = imported("-c", "import llenergymeasure.cli.run")
    roots = {name.partition(".")[0] for name in loaded}
    heavy = {"torch", "transformers", "numpy", "pyarrow", "pynvml", "psutil", "vllm", "llama_cpp"}
    assert not roots & heavy


def test_a_dry_run_of_a_known_shape_needs_no_engine() -> None:
    loaded = imported("-m", "llenergymeasure", "run", "--model", "random:llama-3.2-1b", "--dry-run")
    roots = {name.partition(".")[0] for name in loaded}
    assert "pydantic" in roots
    assert not roots & {"torch", "transformers", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    "module",
    [
        "typer",
        "llenergymeasure.cli._measuring",
        "pydantic",
        "llenergymeasure.config.models",
        "numpy",
    ],
)
def test_ctrl_c_during_an_import_is_one_line(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, module, "doctor"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


@pytest.mark.parametrize("module", ["llenergymeasure.measure.repeats", "numpy", "pyarrow.lib"])
def test_ctrl_c_during_an_import_of_a_run_is_one_line(module: str) -> None:
    command = ["run", "-q", "-m", "any", "-b", "simulated", "--preset", "smoke", "-n", "2"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, module, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


def test_ctrl_c_while_python_makes_a_class_from_text_exits_130_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "making.py").write_text(
        "import sys, typer\n"
        "from llenergymeasure.cli._errors import reported\n"
        "try:\n"
        "    with reported(verbose=False):\n"
        "        exec('raise KeyboardInterrupt')\n"
        "except typer.Exit as ended:\n"
        "    sys.exit(ended.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "making"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted\n")


@pytest.mark.parametrize("after_ms", [0, 20, 50, 100, 200, 400, 800])
def test_ctrl_c_at_any_time_is_one_line(after_ms: int) -> None:
    with subprocess.Popen(
        [*LLEM, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        time.sleep(after_ms / 1000)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    if said == "Interrupted\n":
        assert child.returncode == 130
    else:
        # Before llem's first lines have run Python ends it, and after the last one there is nothing to end.
        assert child.returncode in {0, 1, 130, -signal.SIGINT}
        assert "llenergymeasure" not in said.replace("llenergymeasure/__main__.py", "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, "typer", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["run", "-h"], ["run", "-m", "random:gpt2", "--dry-run"]]
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*LLEM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_takes_one_line_and_leaves_changes_nothing() -> None:
    """All is written in one piece, so that nothing is left to write once the reader has its line."""
    for _ in range(3):
        with subprocess.Popen(
            [*LLEM, "doctor"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            os.read(child.stdout.fileno(), 1)
            child.stdout.close()
            assert (child.wait(timeout=60), child.stderr.read()) == (0, b"")


def test_a_python_that_is_too_old_and_one_without_the_packages_are_told_so() -> None:
    old = "import sys; sys.version_info = (3, 10, 1); from llenergymeasure.__main__ import main; main()"
    bare = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['llem', 'doctor']; "
        + old.partition("; ")[2].partition("; ")[2]
    )
    for source, words in ((old, "needs Python 3.11 or newer"), (bare, "pip install .")):
        done = subprocess.run(
            [sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
