"""An engine that isn't installed costs one line with the command that installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llenergymeasure.config.engines import BACKENDS
from llenergymeasure.config.extras import install

LLEM = Path(sys.executable).with_name("llem")
PACKAGES = {"pytorch": "torch", "vllm": "vllm", "llamacpp": "llama_cpp", "openai": "aiohttp"}
HEAVY = {*PACKAGES.values(), "transformers", "accelerate", "numpy"}


def test_every_engine_answers_whether_it_can_run_without_importing_one() -> None:
    program = (
        "import json, sys\n"
        "from llenergymeasure.backends import load_backend\n"
        "from llenergymeasure.config.engines import BACKENDS\n"
        "answers = {name: load_backend(name).why_unavailable() for name in BACKENDS}\n"
        f"print(json.dumps([answers, sorted({HEAVY!r} & set(sys.modules))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    answers, loaded = json.loads(done.stdout)
    assert set(answers) == set(BACKENDS)
    assert loaded == []
    assert all(answer is None or len(answer.splitlines()) == 1 for answer in answers.values())


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_engine_costs_one_line_with_the_install_command(name: str, tmp_path: Path) -> None:
    if find_spec(PACKAGES[name]) is not None:
        pytest.skip(f"{PACKAGES[name]} is installed here")
    arguments = ["run", "--backend", name, "--model", "random:llama-3.2-1b", "-n", "2", "--quiet"]
    done = subprocess.run(
        [LLEM, *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"PreFlightError: backend {name}: ")
    assert install(name) in line


@pytest.mark.parametrize("name", PACKAGES)
def test_a_dry_run_says_that_an_engine_is_missing_unless_a_container_has_it(
    name: str, tmp_path: Path
) -> None:
    if find_spec(PACKAGES[name]) is not None:
        pytest.skip(f"{PACKAGES[name]} is installed here")
    arguments = ["run", "--backend", name, "--model", "random:llama-3.2-1b", "-n", "2", "--dry-run", "--json"]
    container = ["--set", "runner.kind=container", "--set", "runner.image=engines:1"]
    refused = []
    for more in ([], container):
        done = subprocess.run(
            [LLEM, *arguments, *more], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        refused.append(json.loads(done.stdout)["refused"])
    assert install(name) in refused[0]
    assert "pip install" not in (refused[1] or "")


def test_the_doctor_has_one_line_for_each_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [LLEM, "doctor"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in {0, 1}, done.stderr
    section = done.stdout.partition("\nBackends\n")[2].partition("\n\n")[0].splitlines()
    assert {line.split()[1] for line in section} >= set(BACKENDS)
    for line in section:
        mark, name, answer = line.split()[:3]
        assert mark == {"yes": "✓", "no": "✗"}[answer]
        assert answer in {"yes", "no"}
        if answer == "no" and name in BACKENDS:
            assert f"[{name}]" in line


@pytest.mark.parametrize(
    ("came", "command"),
    [
        (None, "pip install 'llenergymeasure[vllm]==0.9.1'"),
        ({"url": "file:///a/my%20llem", "dir_info": {"editable": True}}, "pip install -e '/a/my llem[vllm]'"),
        ({"url": "file:///a/llem", "dir_info": {}}, "pip install '/a/llem[vllm]'"),
        ({"url": "file:///a/l.whl", "archive_info": {}}, "pip install '/a/l.whl[vllm]'"),
        (
            {"url": "https://h/l", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'llenergymeasure[vllm] @ git+https://h/l@abc'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_llem_came_from(
    came: dict[str, object] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "llenergymeasure-0.9.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: llenergymeasure\nVersion: 0.9.1\n")
    if came is not None:
        (facts / "direct_url.json").write_text(json.dumps(came))
    monkeypatch.syspath_prepend(tmp_path)
    assert install("vllm") == command
