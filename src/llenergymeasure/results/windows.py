"""What does a result hold of code or a command that llem does not run as a model, and how is it kept?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import (
    EnergyReading,
    Environment,
    Estimate,
    MeasurementWarning,
    MeterChoice,
    Start,
)
from llenergymeasure.results import store
from llenergymeasure.results.models import (
    RESULT_SCHEMA_VERSION,
    Count,
    ExperimentId,
    ExperimentResult,
    OverheadPart,
    Part,
    Stored,
)

RECORDED = frozenset({"windows", "command"})


class Occurrence(Part):
    """One window of a name: one time it was entered, or one run of a command.

    `energy_j` is its own where a sensor can know that of a single one.
    """

    start_ns: int
    end_ns: int
    energy_j: float | None
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None
    error: str | None = None
    peak_bytes: Count | None = None
    exit_code: int | None = None


class WithinBoundary(Part):
    """What the windows of one name took within one boundary: of them all, and on average. Boundaries hold
    each other: they are never added.
    """

    boundary: str
    method: Literal["counter", "sampled", "modelled", "mixed"] | None
    energy: Estimate
    energy_each: Estimate
    readings: tuple[EnergyReading, ...]


class NamedWindows(Part):
    """All windows of one name. `energy` is the sum of them all, and the time of windows that overlap counts
    once; `energy_each` and `seconds_each` are means.

    `silent`: each lay between silences. `least_s` is from which length on a single one is known to ± 10 %,
    where that is known. `independent_j` and `common_j` are the half-widths of the total that differ from
    window to window and that are the same in all. `occurrences` are left out where there are over 1,000.
    `boundaries` has each that was read, where that are several.
    """

    name: str
    silent: bool
    count: Count
    failed: Count
    overlapping: Count
    duration_s: float
    seconds_each: Estimate
    energy: Estimate
    energy_each: Estimate
    power: Estimate
    prompt_tokens: Count | None
    output_tokens: Count | None
    per_output_token: Estimate
    per_total_token: Estimate
    peak_bytes: Estimate
    least_s: float | None
    independent_j: float | None
    common_j: float | None
    readings: tuple[EnergyReading, ...]
    boundaries: tuple[WithinBoundary, ...] = ()
    occurrences: tuple[Occurrence, ...] = ()


class WindowsResult(Stored):
    """What windows in somebody's own code cost, or the runs of a command.

    `energy` is that of the whole recording, from `readings`. What only a model run by llem has (tokens that
    nobody stated, arithmetic, utilisation) is not in it.
    """

    schema_version: Literal["2"] = "2"
    kind: Literal["windows", "command"]
    experiment_id: ExperimentId
    program: tuple[str, ...]
    energy_config: MeterChoice
    started_at: Start
    environment: Environment
    duration_s: float
    boundary: str | None
    method: Literal["counter", "sampled", "modelled", "mixed"] | None
    valid: bool
    reasons: tuple[str, ...]
    energy: Estimate
    readings: tuple[EnergyReading, ...]
    windows: tuple[NamedWindows, ...]
    flops: None = None
    flops_reason: str = "llem did not run the model: the shape of its work is unknown"
    warnings: tuple[MeasurementWarning, ...]
    overhead: OverheadPart
    notes: tuple[str, ...] = Field(default=(), description="facts that weaken nothing")

    def save(self, output_dir: str | Path) -> Path:
        """Write `output_dir/<experiment_id>/result.json` and return that folder; ResultError where it can't
        be written or is there already.
        """
        folder = Path(output_dir) / self.experiment_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(self, folder)
        except FileExistsError as error:
            raise ResultError(
                f"{folder} holds a result already", hint="choose another folder, or move what is there"
            ) from error
        except OSError as error:
            raise ResultError(f"the result can't be written to {folder}: {error.strerror}") from error
        return folder

    @classmethod
    def load(cls, path: str | Path) -> WindowsResult:
        """Read a `result.json`, or the folder that holds one. ResultError says what is wrong with it."""
        found = load_any(Path(path))
        if not isinstance(found, cls):
            raise ResultError(f"{path} is the result of a model's run", hint="ExperimentResult.load reads it")
        return found

    def __repr__(self) -> str:
        names = ", ".join(f"{one.name}: {one.energy_each}" for one in self.windows[:3])
        return f"<WindowsResult {self.experiment_id}: {names}>"

    def __str__(self) -> str:
        from llenergymeasure.results import windows_summary

        return windows_summary.as_text(self)

    def _repr_html_(self) -> str:
        from llenergymeasure.results import windows_summary

        return windows_summary.as_html(self)


def write(result: WindowsResult, folder: Path) -> None:
    """`result.json` in `folder`, aside and then renamed; FileExistsError where there is one."""
    store.write_aside(folder / store.RESULT_FILE, store.as_text(result))


def load_any(path: Path) -> ExperimentResult | WindowsResult:
    """A result of any kind, from its file or folder. ResultError says what is wrong with it."""
    file, text = store.read_text(path)
    return from_data(store.parse(text, file), text, file)


def from_data(data: object, text: str, file: Path) -> ExperimentResult | WindowsResult:
    """The result in a file that was read and parsed; ResultError as `load_any` has it."""
    if not isinstance(data, dict) or data.get("kind") not in RECORDED:
        return store.from_data(data, text, file)
    store.check_version(data, file, newest=RESULT_SCHEMA_VERSION)
    return store.validated(WindowsResult, text, file, data)
