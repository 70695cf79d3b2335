"""How does a study run to its end: each run in its turn, each ending on record, whatever fails?

Long because order, retries, budgets and the ledger share one state.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from heapq import heappop, heappush
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from llenergymeasure.config.study import most_probes
from llenergymeasure.exceptions import ConfigError, LLEMError, ResultError
from llenergymeasure.measure.budget import Repeats, RunCost, Turn
from llenergymeasure.records import FailedRun
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE
from llenergymeasure.results.summary import some
from llenergymeasure.study import ledger, task
from llenergymeasure.study.executors import Ended, Executor
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Ledger, Opened, Planned
from llenergymeasure.study.order import turns
from llenergymeasure.study.plan import Experiment, Plan
from llenergymeasure.study.search import good_share, next_probe
from llenergymeasure.study.visits import Visits, visit_groups

TASKS = "tasks"
# What an executor gives a run beyond its own time limit, until it is taken for hung.
MARGIN_S = 120.0
# Trying the same again can only help where chance had a part.
_RETRIED = frozenset({"crash", "timeout", "error", "lost", "interrupted"})
# Extras whose libraries no number depends on.
_APART = frozenset({"dev", "bench", "slurm", "ray"})


@dataclass(frozen=True, slots=True)
class Step:
    """What the study does now: `done` of `planned` runs, the run that begins or ended, seconds left by those
    so far (None before the first).
    """

    done: int
    planned: int
    label: str
    repeat: int
    said: str
    left_s: float | None


@dataclass
class _Track:
    """One experiment on its way."""

    experiment: Experiment
    name: str
    folder: Path
    repeats: Repeats
    failed: list[FailedRun] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)
    place: int = 0
    planned: int = 0
    attempt: int = 1
    over: bool = False

    def add(self, number: int, cost: RunCost) -> None:
        self.measured.append(number)
        self.repeats.add(cost)
        self.attempt = 1

    def fail(self, record: Failed) -> None:
        self.failures.append(record)
        self.failed.append(FailedRun(record.repeat, record.message))
        self.repeats.add(None)
        self.attempt = 1


@dataclass(frozen=True, slots=True)
class How:
    """What the command line says of how to go on."""

    resume: bool = False
    retry_failed: bool = False
    accept_drift: bool = False
    only: tuple[str, ...] = ()


def run_plan(
    plan: Plan,
    folder: Path,
    *,
    executor: Executor,
    how: How,
    tell: Callable[[Step], None],
    remark: Callable[[str], None],
    visits: bool = False,
) -> bool:
    """Make every run that is not made yet; whether the study came to its end.

    With `visits` experiments that differ in their load alone share a server, which is started anew for each
    repeat; the executor then makes one run at a time, on this host. Each experiment's folder gets its
    `result.json` once its last run is over. ResultError where the folder holds another study, or this one and
    `how.resume` is not given.
    """
    _check_before(plan, folder, how)
    running = ExitStack()
    # Where the executor can't be had, nothing is written.
    running.enter_context(executor)
    with running, ledger.opened(folder) as book:
        groups = visit_groups(plan.experiments) if visits else {}
        study = _Study(plan, folder, book, Visits(groups, folder), tell=tell, remark=remark)
        study.take_up(how)
        try:
            # What still runs is ended before the ledger says so.
            with study.visits, running.pop_all():
                finished = study.run(executor)
        except BaseException as error:
            study.pass_on_unended()
            book.append(Closed(f"ended by {type(error).__name__}"))
            raise
        book.append(Closed("finished" if finished else "stopped after too many failures"))
        return finished


class _Study:
    def __init__(
        self,
        plan: Plan,
        folder: Path,
        book: Ledger,
        visits: Visits,
        *,
        tell: Callable[[Step], None],
        remark: Callable[[str], None],
    ) -> None:
        self._plan, self._folder, self._book, self._tell, self._remark = plan, folder, book, tell, remark
        self.visits = visits
        self._tracks = [_track(one, folder, at, remark) for at, one in enumerate(plan.experiments)]
        # Whose turn it is, by the order of the plan; those that run are not in it.
        self._due: list[tuple[int, int, int, int, _Track]] = []
        self._places: dict[int, list[int]] = {}
        self._by_hash = {one.experiment.hash: one for one in self._tracks}
        self._waiting: dict[Path, tuple[_Track, Turn]] = {}
        self._failed_in_a_row = 0
        self._remarked: set[str] = set()
        self._searches = {
            name: [self._by_hash[one.hash] for one in found] for name, found in plan.searches.items()
        }
        self._planned = sum(one.planned for one in self._tracks if one.experiment.sought is None)
        self._planned += sum(most_probes(len(found)) * found[0].planned for found in self._searches.values())
        self._over, self._made, self._began = 0, 0, time.monotonic()

    def take_up(self, how: How) -> None:
        """Start the study, or go on where its ledger ends."""
        records = list(ledger.read(self._folder))
        begun = any(isinstance(one, Begun) for one in records)
        now = Opened(self._plan.identity, _planned(self._plan), versions(), resumed=begun)
        if begun and not how.resume:
            raise ResultError(
                f"{self._folder} holds a study already",
                hint="go on with it: --resume; or choose another --output",
            )
        if begun:
            _check_same(next(one for one in reversed(records) if isinstance(one, Opened)), now, how)
            self._replay(records, how)
        elif how.resume:
            self._remark(f"{self._folder} holds no study yet: it starts from the beginning")
        self._book.append(now)
        kept = {one.hash for one in chosen(self._plan, how.only)}
        for track in self._tracks if how.only else ():
            track.over = track.experiment.hash not in kept

    def _replay(self, records: Sequence[ledger.Record], how: How) -> None:
        done: dict[tuple[str, int], Done | Failed] = {}
        for one in records:
            if isinstance(one, Done) or (isinstance(one, Failed) and one.final and not how.retry_failed):
                done[one.experiment, one.repeat] = one
        for (which, number), record in sorted(done.items(), key=lambda part: part[0][1]):
            track = self._by_hash.get(which)
            if track is None or track.repeats.next() is None:
                continue
            turn = track.repeats.next()
            if turn is None or turn.number != number:
                continue  # an earlier repeat is missing: this one is made again in its turn
            if isinstance(record, Failed):
                track.fail(record)
            elif _is_whole(track.folder / RUNS / str(number), record):
                track.add(number, record.cost)

    def run(self, executor: Executor) -> bool:
        self._over = sum(len(one.measured) + len(one.failed) for one in self._tracks)
        self._began = time.monotonic()
        for track in self._tracks:
            if track.experiment.sought is None or track.measured or track.failed:
                self._settle(track)
        for name in self._searches:
            self._search_on(name)
        while True:
            free = executor.slots - len(self._waiting)
            due = self._next(free) if free > 0 and not self._is_broken() else []
            if not due and not self._waiting:
                return not self._is_broken()
            for ended in [*self._begin(executor, due), *executor.ended()]:
                track = self._end(ended)
                self._settle(track)
                if track.over and track.experiment.sought is not None:
                    self._search_on(track.experiment.sought[0])

    def _search_on(self, name: str) -> None:
        """Have the search try its next value, if one is left."""
        tracks = self._searches[name]
        at = next_probe([self._met(track) for track in tracks])
        if at is None:
            tried = sum(track.over for track in tracks)
            self._planned -= (most_probes(len(tracks)) - tried) * tracks[0].experiment.config.repeats.count
        elif not (tracks[at].measured or tracks[at].failed):
            self._settle(tracks[at])

    def _met(self, track: _Track) -> bool | None:
        """Whether every repeat met the objectives; None before the last is over."""
        if not track.over:
            return None
        search = self._plan.search
        assert search is not None, "a track of a search"
        if track.failed or not track.measured:
            return False
        shares = [good_share(track.folder / RUNS / str(number)) for number in track.measured]
        return all(share is not None and share >= search.share for share in shares)

    def _next(self, most: int) -> list[tuple[_Track, Turn]]:
        """The runs that come next, by the order of the plan."""
        found = [heappop(self._due)[-1] for _ in range(min(most, len(self._due)))]
        return [(track, turn) for track in found if (turn := track.repeats.next()) is not None]

    def _place(self, track: _Track, turn: Turn) -> tuple[int, int, int]:
        """When its turn is. Those that share a server are together, in a new order for each repeat."""
        group = self.visits.group(track.experiment)
        order = self._plan.execution.order
        if order == "sequential":
            at = track.place if group is None else group[0]
        else:
            at = min(self._among(turn, one) for one in group or (track.place,))
        within = 0
        if group is not None:
            visited = turns("balanced", len(group), turn.number, seed=self._plan.identity)
            within = visited.index(group.index(track.place))
        return (at, turn.number, within) if order == "sequential" else (turn.number, at, within)

    def _among(self, turn: Turn, place: int) -> int:
        """Where an experiment comes among the repeats of that number."""
        if turn.number not in self._places:
            order, seed = self._plan.execution.order, self._plan.identity
            found = turns(order, len(self._tracks), turn.number, seed=seed)
            self._places[turn.number] = sorted(range(len(found)), key=found.__getitem__)
        return self._places[turn.number][place]

    def _begin(self, executor: Executor, due: Sequence[tuple[_Track, Turn]]) -> list[Ended]:
        """Start them; those whose server does not come up have ended."""
        if not due:
            return []
        if self._plan.execution.gaps and self._made:
            time.sleep(self._plan.execution.gaps)
        paths, limit_s, ended = [], 0.0, []
        folder = self._folder / TASKS
        folder.mkdir(exist_ok=True)
        for track, turn in due:
            one = track.experiment
            path = folder / f"{track.name}-{turn.number}-{track.attempt}.json"
            shutil.rmtree(track.folder / RUNS / str(turn.number), ignore_errors=True)
            # It does not hold this run; it is made again from all runs.
            (track.folder / RESULT_FILE).unlink(missing_ok=True)
            self._book.append(Begun(one.hash, turn.number, track.attempt, executor.where))
            self._tell(self._step(track, turn, "begins"))
            self._waiting[path] = (track, turn)
            try:
                by_url = self.visits.by_url(one, turn.number)
            except LLEMError as error:
                task.write_ending(path, task.ending_of(error))
                ended.append(Ended(path, error.message))
                continue
            task.write_task(
                path,
                task.Task(
                    track.name,
                    track.folder.absolute(),
                    one.config,
                    one.config.origins,
                    turn.number,
                    turn.runs,
                    turn.passes,
                    turn.seconds,
                    by_url,
                ),
            )
            paths.append(path)
            limit_s = max(limit_s, one.config.timeout_s + MARGIN_S)
        if paths:
            executor.start(paths, limit_s=limit_s)
        return ended

    def _end(self, ended: Ended) -> _Track:
        track, turn = self._waiting.pop(ended.task)
        ending = task.read_ending(ended.task)
        if ending is None or ended.timed_out:
            ending = task.Ending(kind="timeout" if ended.timed_out else "crash", message=_ended_badly(ended))
        elif ending.kind == "interrupted":
            ending = replace(ending, message=f"{ending.message}: {_ended_badly(ended)}")
        if ending.cost is None:
            gone = self.visits.why_ended()
            if gone is not None:
                ending = replace(ending, kind=gone.kind, message=f"{ending.message}: {gone.text}")
            # It may hang, or still be at work on what nobody waits for.
            self.visits.leave()
        self._pass_on(track, ending.remarks)
        which, number = track.experiment.hash, turn.number
        run = track.folder / RUNS / str(number)
        if ending.cost is not None and run.is_dir():
            self._book.append(Done(which, number, ending.cost, files_of(run), ending.seconds))
            track.add(number, ending.cost)
            self._failed_in_a_row, self._made, self._over = 0, self._made + 1, self._over + 1
            self._tell(self._step(track, turn, f"measured in {ending.seconds:.3g} s"))
            task.remove(ended.task)
            return track
        kind = ending.kind or "error"
        final = kind not in _RETRIED or track.attempt > self._plan.execution.retries
        record = Failed(which, number, track.attempt, kind, ending.message, final)
        self._book.append(record)
        again = "it is tried again" if not final else ending.hint
        said = f"{track.experiment.label}: run {number} failed ({kind}): {ending.message}"
        self._remark(f"{said}; {again}" if again else said)
        if final:
            self._failed_in_a_row, self._over = self._failed_in_a_row + 1, self._over + 1
            track.fail(record)
        else:
            track.attempt += 1
        return track

    def _pass_on(self, track: _Track, remarks: Sequence[str]) -> None:
        """What the runs remark, each remark once: another run has other figures for the same."""
        for one in remarks:
            if (gist := re.sub(r"[\d.]+", "#", one)) not in self._remarked:
                self._remarked.add(gist)
                self._remark(f"{track.experiment.label}: {one}")

    def pass_on_unended(self) -> None:
        """What those remarked that were ended with the study, such as how many requests they had sent."""
        for path, (track, _) in self._waiting.items():
            if (ending := task.read_ending(path)) is not None:
                self._pass_on(track, ending.remarks)

    def _settle(self, track: _Track) -> None:
        """Have its next run wait for its turn, or pool the runs of an experiment whose last one is over."""
        if track.over:
            return
        if (turn := track.repeats.next()) is not None:
            heappush(self._due, (*self._place(track, turn), track.place, track))
            return
        track.over = True
        if track.measured:
            pool(track.folder, track.measured, track.failed, remark=self._remark)

    def _is_broken(self) -> bool:
        most = self._plan.execution.stop_after_failures
        return most is not None and self._failed_in_a_row >= most

    def _step(self, track: _Track, turn: Turn, said: str) -> Step:
        self._planned += max(0, turn.runs - track.planned)
        track.planned = max(track.planned, turn.runs)
        each_s = (time.monotonic() - self._began) / self._made if self._made else None
        left_s = None if each_s is None else (self._planned - self._over) * each_s
        return Step(self._over, self._planned, track.experiment.label, turn.number, said, left_s)


def pool(
    folder: Path, measured: Sequence[int], failed: Sequence[FailedRun], *, remark: Callable[[str], None]
) -> None:
    """Write the result of an experiment from its runs, unless it is there already."""
    from llenergymeasure.analysis.metrics import metrics
    from llenergymeasure.measure.replay import read_measurements

    if (folder / RESULT_FILE).exists():
        return
    try:
        result = metrics(read_measurements(folder, sorted(measured)), failed=failed)
        result.save(folder.parent)
    except LLEMError as error:
        remark(f"{folder.name}: its result can't be made: {error.message}")


def files_of(run: Path) -> dict[str, tuple[int, int, str]]:
    """Size, time of change and SHA-256 of each file of a run."""
    found = {}
    for path in sorted(run.iterdir()):
        if path.is_file():
            seen = path.stat()
            found[path.name] = (seen.st_size, seen.st_mtime_ns, _sha256(path))
    return found


def _is_whole(run: Path, record: Done) -> bool:
    """Whether the files of a run are those that were recorded; False where the folder is gone.

    ResultError where one was changed. A file whose size and time of change are the recorded ones is not read.
    """
    if not run.is_dir():
        return False
    for name, (size, changed_ns, digest) in record.files.items():
        path = run / name
        try:
            seen = path.stat()
        except OSError:
            return False
        if (seen.st_size, seen.st_mtime_ns) != (size, changed_ns) and _sha256(path) != digest:
            raise ResultError(
                f"{path} was changed after it was measured",
                hint=f"restore it from a copy, or remove {run} to measure that run again",
            )
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of what a study's numbers depend on: this machine, llem, and the libraries of its engines."""
    found = {"python": platform.python_version(), "machine": platform.node()}
    for name in ("llenergymeasure", *_libraries()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _libraries() -> list[str]:
    """What the extras of llem ask for, by name."""
    asked = [one.partition("; extra == ") for one in requires("llenergymeasure") or ()]
    names = [
        re.split(r"[^A-Za-z0-9._-]", text)[0]
        for text, _, extra in asked
        if extra and extra.strip("'\"") not in _APART
    ]
    return sorted(set(names))


def folder_name(experiment: Experiment) -> str:
    """Of an experiment's folder: its label, as far as that is a name, and its identity."""
    slug = re.sub(r"[^A-Za-z0-9.=]+", "-", experiment.label).strip("-.=")[:60] or "experiment"
    return f"{slug.replace('=', '-')}-{experiment.hash[:12]}"


def _track(experiment: Experiment, folder: Path, place: int, remark: Callable[[str], None]) -> _Track:
    name = folder_name(experiment)
    repeats = Repeats(experiment.config, remark=remark, strict=False)
    return _Track(
        experiment, name, folder / name, repeats, place=place, planned=experiment.config.repeats.count
    )


def _planned(plan: Plan) -> tuple[Planned, ...]:
    return tuple(
        # A search may leave an experiment out.
        Planned(one.hash, one.label, one.names, 0 if one.sought else one.config.repeats.count)
        for one in plan.experiments
    )


def chosen(plan: Plan, only: Sequence[str]) -> tuple[Experiment, ...]:
    """The experiments of these names; all where none is named. ConfigError for a name that none has."""
    if not only:
        return plan.experiments
    if plan.search is not None:
        raise ConfigError("--only names experiments, and a search chooses its own")
    for pattern in only:
        if not any(_matches(one, pattern) for one in plan.experiments):
            raise ConfigError(
                f"--only {pattern}: no experiment of the study has that name",
                hint=f"it has {some([one.label for one in plan.experiments])}",
            )
    return tuple(one for one in plan.experiments if any(_matches(one, pattern) for pattern in only))


def _matches(experiment: Experiment, pattern: str) -> bool:
    names = (experiment.label, *experiment.names, folder_name(experiment))
    return any(fnmatch(name, pattern) for name in names)


def _check_before(plan: Plan, folder: Path, how: How) -> None:
    """What can be refused before anything is written."""
    if (folder / STUDY_FILE).exists() and next(ledger.read(folder), None) is None:
        raise ResultError(
            f"{folder} holds a study without its ledger, such as one that llem merge made",
            hint="choose another --output",
        )
    chosen(plan, how.only)


def _check_same(before: Opened, now: Opened, how: How) -> None:
    """ResultError names what changed since the study was begun."""
    lines = []
    if before.identity != now.identity:
        old, new = ({one.hash: one for one in part.plan} for part in (before, now))
        lines += [f"no longer in it: {old[key].label}" for key in old if key not in new]
        lines += [f"new: {new[key].label}" for key in new if key not in old]
        lines += [
            f"repeats of {new[key].label}: {old[key].repeats}, now {new[key].repeats}"
            for key in new
            if key in old and new[key].repeats != old[key].repeats
        ]
        lines = lines or ["its experiments"]
    keys = dict.fromkeys((*before.versions, *now.versions))
    changed = [key for key in keys if before.versions.get(key) != now.versions.get(key)]
    lines += [
        f"{key}: {before.versions.get(key, 'none')}, now {now.versions.get(key, 'none')}" for key in changed
    ]
    if lines and not how.accept_drift:
        shown = [*lines[:20], *([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])]
        raise ResultError(
            "the study is not what it was when it was begun:\n  " + "\n  ".join(shown),
            hint="--accept-drift goes on all the same; another --output starts anew",
        )


def _ended_badly(ended: Ended) -> str:
    """What is known of a process that did not end by itself: how it went, and its last line."""
    try:
        lines = task.log_of(ended.task).read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{ended.note}: {lines[-1][:200]}" if lines else ended.note
