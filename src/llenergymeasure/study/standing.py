"""Who holds a model that stands for several runs of a study, and what became of it?

`python -m llenergymeasure.study.standing CONFIG.json` brings it up, says in a line with which configuration
runs use it, and ends it when asked, or when its stdin is closed: nothing outlives the study.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pydantic import BaseModel, JsonValue, ValidationError

from llenergymeasure.backends import StandingBackend, is_out_of_memory, load_backend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ExperimentError, LLEMError
from llenergymeasure.measure.launch import close_pipe, has_ended, kill_session
from llenergymeasure.records import FailureKind, RunFailure
from llenergymeasure.study.ends import end_on_signals, end_with_parent
from llenergymeasure.study.executors import GRACE_S

# How often it is looked whether the model still stands.
LOOK_S = 0.2
# Until the process that holds a model has noticed that it is gone.
_NOTICED_S = 2.0


class Said(BaseModel):
    """A line of the process: the options that use the model, or why there is none (any more)."""

    options: dict[str, JsonValue] | None = None
    why: str = ""
    hint: str | None = None

    @property
    def text(self) -> str:
        return f"{self.why}; {self.hint}" if self.hint else self.why

    @property
    def kind(self) -> FailureKind:
        return "oom" if is_out_of_memory(self.text) else "crash"


@dataclass
class Held:
    """A model that stands, and the process that holds it."""

    process: subprocess.Popen[bytes]
    options: Mapping[str, JsonValue]
    _said: Said | None = None

    @property
    def stands(self) -> bool:
        return self.process.poll() is None

    def why_ended(self) -> Said | None:
        """None while it stands; asked after a run that failed, it gives the process time to notice."""
        if not has_ended(self.process, _NOTICED_S):
            return None
        if self._said is None:
            self._said = _heard(self.process) or Said(why="the process that held the server was killed")
        return self._said


@contextmanager
def held(config: ExperimentConfig, *, folder: Path, name: str) -> Iterator[Held]:
    """The model, up and ready. Its log is `name.log` in the folder. ExperimentError where it does not come
    up.
    """
    folder.mkdir(exist_ok=True)
    path, log_path = folder / f"{name}.json", folder / f"{name}.log"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "llenergymeasure.study.standing", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        said = _heard(process) or Said(why="the process that starts the server died", hint=f"see {log_path}")
        if said.options is None:
            failure = RunFailure(name, "load", said.kind, said.text)
            raise ExperimentError(said.text, failure=failure)
        yield Held(process, said.options)
    finally:
        _end(process)
        path.unlink(missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and every process of its session, whatever state it is in."""
    process.terminate()
    try:
        has_ended(process, GRACE_S)
    finally:
        kill_session(process.pid)
    process.wait()
    close_pipe(cast("IO[bytes]", process.stdin))
    close_pipe(cast("IO[bytes]", process.stdout))


def _heard(process: subprocess.Popen[bytes]) -> Said | None:
    assert process.stdout is not None
    try:
        return Said.model_validate_json(process.stdout.readline())
    except ValidationError:
        return None


def main(path: Path) -> int:
    end_on_signals()
    end_with_parent()
    config = ExperimentConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    backend = cast("StandingBackend", load_backend(config.backend))
    try:
        with backend.standing(config) as standing:
            _say(Said(options=dict(standing.options)))
            error: LLEMError | None = None
            while error is None and not select.select([sys.stdin], [], [], LOOK_S)[0]:
                error = standing.why_ended()
    except LLEMError as failed:
        error = failed
    if error is None:
        return 0
    _say(Said(why=error.message, hint=error.hint))
    return 1


def _say(said: Said) -> None:
    with suppress(BrokenPipeError):
        print(said.model_dump_json(), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
