"""What has a study given so far, and what is missing?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ResultError
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.store import RESULT_FILE, own_version
from llenergymeasure.results.study import Outcome, StudyFailure, StudyGap, StudyResult, StudyRow, row_of
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Opened, Record
from llenergymeasure.study.plan import Plan
from llenergymeasure.study.run import folder_name


def account(plan: Plan, folder: Path) -> StudyResult:
    """A row for each experiment of the plan, from the ledger and the results in the study's folder."""
    records = list(ledger.read(folder))
    varied = _varied(plan)
    rows, simulated = [], False
    by_hash = _by_experiment(records)
    for one in plan.experiments:
        where = folder_name(one)
        facts: dict[str, object] = {"runs": 0}
        failures = tuple(_failures(by_hash.get(one.hash, ())))
        result = _result(folder / where)
        if result is not None:
            facts = row_of(result)
            simulated = simulated or result.simulated
        planned = one.config.repeats.count
        done = isinstance(facts["runs"], int) and facts["runs"] >= planned and not failures
        begun = any(isinstance(record, Begun) for record in by_hash.get(one.hash, ()))
        outcome: Outcome = "done" if done else "partial" if result is not None else "pending"
        if result is None and failures:
            outcome = "failed"
        elif result is None and begun:
            outcome = "pending"
        rows.append(
            StudyRow.model_validate(
                {
                    "label": one.label,
                    "names": one.names,
                    "hash": one.hash,
                    "varied": varied[one.hash],
                    "outcome": outcome,
                    "folder": where if result is not None else None,
                    "planned": planned,
                    "failures": failures,
                    **facts,
                }
            )
        )
    opened = [record for record in records if isinstance(record, Opened)]
    closed = [record for record in records if isinstance(record, Closed)]
    return StudyResult(
        llem=own_version(),
        name=plan.name,
        identity=plan.identity,
        finished=all(row.outcome != "pending" for row in rows),
        simulated=simulated,
        started_at=opened[0].at if opened else "",
        ended_at=closed[-1].at if closed else None,
        executor=plan.execution.executor,
        rows=tuple(rows),
        left_out=tuple(StudyGap(label=gap.label, kind=gap.kind, reason=gap.reason) for gap in plan.left_out),
    )


def _by_experiment(records: Sequence[Record]) -> dict[str, list[Begun | Done | Failed]]:
    found: dict[str, list[Begun | Done | Failed]] = {}
    for record in records:
        if isinstance(record, Begun | Done | Failed):
            found.setdefault(record.experiment, []).append(record)
    return found


def _failures(records: Sequence[Begun | Done | Failed]) -> Iterator[StudyFailure]:
    """The repeats whose last word is a failure that is not tried again."""
    last: dict[int, Done | Failed] = {}
    for record in records:
        if isinstance(record, Done | Failed):
            last[record.repeat] = record
    for number, record in sorted(last.items()):
        if isinstance(record, Failed) and record.final:
            yield StudyFailure(
                repeat=number, attempts=record.attempt, kind=record.kind, message=record.message
            )


def _result(folder: Path) -> ExperimentResult | None:
    if not (folder / RESULT_FILE).exists():
        return None
    try:
        return ExperimentResult.load(folder)
    except ResultError:
        return None


def _varied(plan: Plan) -> Mapping[str, dict[str, JsonValue]]:
    """For each experiment the settings in which it differs from another."""
    flat = {one.hash: dict(leaves(one.config.model_dump(mode="json"))) for one in plan.experiments}
    left_out = {"output_dir"}
    keys: dict[str, None] = {}
    first = next(iter(flat.values()), {})
    for each in flat.values():
        keys |= dict.fromkeys(
            key for key in first | each if first.get(key) != each.get(key) and key not in left_out
        )
    return {which: {key: each[key] for key in keys if key in each} for which, each in flat.items()}
