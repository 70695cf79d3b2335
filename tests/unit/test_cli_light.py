from __future__ import annotations

import re
import subprocess
import sys


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import llenergymeasure.cli"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "llenergymeasure.cli.run" in loaded
    heavy = re.compile(r"(torch|transformers|numpy|pyarrow|pynvml|psutil|vllm|llama_cpp)(\.|$)")
    assert sorted(name for name in loaded if heavy.match(name)) == []


def test_a_dry_run_of_a_known_shape_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from llenergymeasure.cli import app\n"
        "done = CliRunner().invoke(app, ['run', '--model', 'random:llama-3.2-1b', '--dry-run'])\n"
        "assert done.exit_code == 0, done.output\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
