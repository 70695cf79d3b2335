"""What has a study given so far, and what is missing?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.store import own_version
from llenergymeasure.results.study import (
    Outcome,
    ResultHead,
    StudyFailure,
    StudyGap,
    StudyResult,
    StudyRow,
    StudySearch,
    row_of,
)
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Opened, Record
from llenergymeasure.study.plan import Experiment, Plan
from llenergymeasure.study.run import folder_name
from llenergymeasure.study.search import bracket, good_share, next_probe


def account(plan: Plan, folder: Path) -> StudyResult:
    """A row for each experiment of the plan, from the ledger and the results in the study's folder."""
    records = list(ledger.read(folder))
    varied, by_hash = _varied(plan), _by_experiment(records)
    tried = [one for one in plan.experiments if one.sought is None or one.hash in by_hash]
    heads = [ResultHead.read(folder / folder_name(one)) for one in tried]
    rows = [
        _row(one, head, varied[one.hash], by_hash.get(one.hash, ()), folder)
        for one, head in zip(tried, heads, strict=True)
    ]
    if len({row.place for row in rows if row.folder is not None}) == 1:
        rows = [row.model_copy(update={"place": None}) for row in rows]
    rows = [
        row if row.place is None else row.model_copy(update={"label": f"{row.label} ({row.place})"})
        for row in rows
    ]
    searches = tuple(_searches(plan, rows))
    opened = [record for record in records if isinstance(record, Opened)]
    closed = [record for record in records if isinstance(record, Closed)]
    return StudyResult(
        llem=own_version(),
        name=plan.name,
        identity=plan.identity,
        finished=all(row.outcome != "pending" for row in rows) and all(one.finished for one in searches),
        simulated=any(head.simulated for head in heads if head is not None),
        started_at=opened[0].at if opened else "",
        ended_at=closed[-1].at if closed else None,
        executor=plan.execution.executor,
        rows=tuple(rows),
        left_out=tuple(StudyGap(label=gap.label, kind=gap.kind, reason=gap.reason) for gap in plan.left_out),
        searches=searches,
    )


def _row(
    one: Experiment,
    result: ResultHead | None,
    varied: Mapping[str, JsonValue],
    records: Sequence[Begun | Done | Failed],
    folder: Path,
) -> StudyRow:
    facts: dict[str, object] = {"runs": len({each.repeat for each in records if isinstance(each, Done)})}
    if result is not None:
        facts = row_of(result)
        if one.sought is not None:
            runs = folder / folder_name(one) / RUNS
            facts["good"] = tuple(good_share(runs / str(run.index)) for run in result.measured)
    planned, failures = one.config.repeats.count, tuple(_failures(records))
    outcome: Outcome = "failed" if failures else "pending"
    if result is not None:
        outcome = "done" if len(result.measured) >= planned and not failures else "partial"
    return StudyRow.model_validate(
        {
            "label": one.label,
            "names": one.names,
            "hash": one.hash,
            "varied": varied,
            "outcome": outcome,
            "folder": None if result is None else folder_name(one),
            "planned": planned,
            "failures": failures,
            **facts,
        }
    )


def _searches(plan: Plan, rows: Sequence[StudyRow]) -> Iterator[StudySearch]:
    by_hash = {row.hash: row for row in rows}
    for label, tried in plan.searches.items():
        assert plan.search is not None, "experiments of a search"
        found = [by_hash.get(one.hash) for one in tried]
        met = [None if row is None else _met(row, plan.search.share) for row in found]
        low, high = bracket(met)
        values = [one.sought[1] for one in tried if one.sought is not None]
        servers = {server for row in found if row is not None for server in row.servers}
        objectives = tried[0].config.slo.model_dump(exclude_none=True)
        yield StudySearch(
            label=label,
            over=plan.search.over,
            share=plan.search.share,
            objectives=objectives,
            met=None if low is None else values[low],
            not_met=None if high is None else values[high],
            probes=sum(one is not None for one in met),
            finished=next_probe(met) is None,
            servers=0 if None in servers else len(servers),
        )


def _met(row: StudyRow, share: float) -> bool | None:
    if row.outcome == "pending":
        return None
    good = [one for one in row.good if one is not None]
    return row.outcome == "done" and len(good) == row.runs and min(good, default=0.0) >= share


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


def _varied(plan: Plan) -> Mapping[str, dict[str, JsonValue]]:
    """For each experiment the settings in which it differs from another."""
    flat = {one.hash: _settings(one.config) for one in plan.experiments}
    left_out = {"output_dir"}
    keys: dict[str, None] = {}
    first = next(iter(flat.values()), {})
    for each in flat.values():
        keys |= dict.fromkeys(
            key for key in first | each if first.get(key) != each.get(key) and key not in left_out
        )
    return {which: {key: each[key] for key in keys if key in each} for which, each in flat.items()}


def _settings(config: ExperimentConfig) -> dict[str, JsonValue]:
    """Every value in force; the options that a plug-in brings are dumped without their defaults."""
    values = config.model_dump(mode="json") | {config.backend: config.options.model_dump(mode="json")}
    return dict(leaves(values))
