"""How are the runs of a study placed by Slurm?

Through submitit: each run is a job with a node of its own, several at once are an array. The ledger, the
tasks and the results lie on a file system that the nodes share. Queues, preemption and lost nodes are
Slurm's: a job that it requeues begins its run anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llenergymeasure.config.extras import install
from llenergymeasure.config.study import SlurmConfig
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.study.executors import Ended
from llenergymeasure.study.task import log_of, read_ending

LOOK_S = 0.5
# From a cancel until the job has to be gone.
CANCEL_S = 60.0
MOST_AT_ONCE = 1000
_GONE = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("TIMEOUT", "REVOKED", "SPECIAL_EXIT"),
    }
)


def make_run(task: str) -> int:
    """What a job does: the run, as a process of its own that ends with the job."""
    with log_of(Path(task)).open("wb") as log:
        command = [sys.executable, "-m", "llenergymeasure.study.unit", task, "--tied"]
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


@dataclass(frozen=True, slots=True)
class JobState:
    """What Slurm says of a job: its state, and the reason that it gives."""

    name: str
    reason: str


class SlurmExecutor:
    """BackendError where sbatch is not there or refuses a job."""

    def __init__(self, asked: SlurmConfig, folder: Path) -> None:
        self._asked, self._folder = asked, folder
        self._jobs: dict[str, Path] = {}

    @property
    def slots(self) -> int:
        return self._asked.at_once or MOST_AT_ONCE

    @property
    def where(self) -> str:
        return "Slurm"

    def __enter__(self) -> Self:
        self._executor(0.0)  # before a run is on record
        return self

    def __exit__(self, *error: object) -> None:
        if not self._jobs:
            return
        subprocess.run(["scancel", *self._jobs], check=False, capture_output=True)
        until = time.monotonic() + CANCEL_S
        while self._jobs and time.monotonic() < until:
            self.ended()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        executor = self._executor(limit_s)
        paths = [str(task.absolute()) for task in tasks]
        try:
            jobs = (
                executor.map_array(make_run, paths) if len(paths) > 1 else [executor.submit(make_run, *paths)]
            )
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            raise BackendError(
                f"Slurm took no job: {_last_line(error)}", hint="try the same options with sbatch"
            ) from error
        self._jobs |= {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}

    def _executor(self, limit_s: float) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("the slurm executor needs submitit", hint=install("slurm")) from error
        asked = self._asked
        try:
            executor = submitit.SlurmExecutor(folder=self._folder / "slurm" / "%j")
        except RuntimeError as error:
            raise BackendError(
                f"there is no Slurm here: {_last_line(error)}", hint="run llem where sbatch works"
            ) from error
        parameters: dict[str, Any] = {
            "job_name": "llem",
            "time": max(asked.minutes, int(limit_s // 60) + 1),
            "exclusive": True,
            "array_parallelism": asked.at_once or MOST_AT_ONCE,
            "setup": list(asked.setup),
            "additional_parameters": {"requeue": True, **asked.options},
            "stderr_to_stdout": True,
        }
        parameters |= {} if asked.partition is None else {"partition": asked.partition}
        parameters |= {} if asked.cpus is None else {"cpus_per_task": asked.cpus}
        parameters |= {"gpus_per_node": asked.gpus} if asked.gpus else {}
        executor.update_parameters(**parameters)
        return executor

    def ended(self) -> list[Ended]:
        if not self._jobs:
            return []
        time.sleep(LOOK_S)
        states = job_states()
        found = []
        for job, task in list(self._jobs.items()):
            state = states.get(job)
            if state is not None and state.name not in _GONE:
                continue
            del self._jobs[job]
            name = "GONE" if state is None else state.name
            reason = f" ({state.reason})" if state is not None and state.reason != "None" else ""
            ending = read_ending(task)
            cut_short = ending is None or ending.kind == "interrupted"
            timed_out = name in {"TIMEOUT", "DEADLINE"} and cut_short
            found.append(Ended(task, f"Slurm job {job}: {name}{reason}", timed_out=timed_out))
        return found


def job_states() -> Mapping[str, JobState]:
    """Of all jobs that the controller knows, by `1234` or `1234_5` for a part of an array.

    BackendError where the controller does not answer within a minute.
    """
    for _ in range(12):
        answer = subprocess.run(
            ["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            return parse_states(answer.stdout)
        time.sleep(5)
    raise BackendError(
        f"Slurm's controller does not answer: {answer.stderr.strip()}",
        hint="the jobs go on; once it is back: --resume",
    )


def parse_states(text: str) -> dict[str, JobState]:
    """From `scontrol --oneliner show job`; parts of an array that wait together share a line."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        values = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "JobId" not in values or "JobState" not in values:
            continue
        state = JobState(values["JobState"], values.get("Reason", "None"))
        found[values["JobId"]] = state
        if "ArrayJobId" in values:
            for part in _parts(values.get("ArrayTaskId", "")):
                found[f"{values['ArrayJobId']}_{part}"] = state
    return found


def _parts(text: str) -> list[int]:
    """`3`, `0-4`, `1,3-5%2`: the parts of an array that a line is about."""
    parts: list[int] = []
    for piece in text.partition("%")[0].split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+))?", piece):
            first, last = int(found[1]), int(found[2] or found[1])
            parts += range(first, last + 1)
    return parts


def _last_line(error: BaseException) -> str:
    lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
