"""A stand-in for the client and the daemon of docker, as an executable.

Like the real pair it runs the worker in a session that is not its own, so that a killed client leaves it
running until it is removed by name.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, os, signal, stat, subprocess, sys
from pathlib import Path

home = Path({home!r})
arguments = sys.argv[1:]
with open(home / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if arguments[0] == "info":
    sys.exit(0) if not (home / "no-daemon").exists() else sys.exit("Cannot connect to the daemon.")
if arguments[0] == "image":
    if (home / "no-image").exists():
        sys.exit("Error: No such image")
    print("sha256:0123")
    sys.exit(0)
if arguments[0] == "rm":
    pid_file = home / arguments[-1]
    if not pid_file.exists():
        sys.exit("Error: No such container: " + arguments[-1])
    try:
        os.killpg(int(pid_file.read_text()), signal.SIGKILL)
    except ProcessLookupError:
        pass
    pid_file.unlink()
    sys.exit(0)
options = dict(one.lstrip("-").split("=", 1) for one in arguments if one.startswith("--") and "=" in one)
env_file = Path(options["env-file"])
seen = {{"mode": stat.S_IMODE(env_file.stat().st_mode), "path": str(env_file)}}
variables = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
(home / "env.json").write_text(json.dumps({{"variables": variables, **seen}}))
worker = subprocess.Popen(
    [{python!r}, *arguments[arguments.index("-m"):]],
    env={{"PATH": os.environ["PATH"], **variables}},
    start_new_session=True,
)
(home / options["name"]).write_text(str(worker.pid))
code = worker.wait()
(home / options["name"]).unlink(missing_ok=True)
sys.exit(code if code >= 0 else 128 - code)
"""


def install(folder: Path, name: str = "docker") -> Path:
    """Write the executable into `folder`; what it was told lies beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(_SCRIPT.format(python=sys.executable, home=str(folder)), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
