"""Where do prompts come from, and which of them does an experiment use?"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path

from llenergymeasure.config import plugins
from llenergymeasure.config.extras import install
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.hub import cached_snapshot
from llenergymeasure.models.pasted import exists, masked, pasted_dataset
from llenergymeasure.records import DatasetFacts, SkippedRecords
from llenergymeasure.records.dataset import counted
from llenergymeasure.workload import evaluation, hub
from llenergymeasure.workload.answers import reference_of
from llenergymeasure.workload.files import opened
from llenergymeasure.workload.foreign import JSON_FORMATS
from llenergymeasure.workload.formats import (
    OddRecordError,
    Prompt,
    Reference,
    UnknownFormatError,
    read_record,
)
from llenergymeasure.workload.traces import read_trace

BUILT_IN = ("ai-energy-score", "mixed", "synthetic")
SCORE_ID = "EnergyStarAI/text_generation"
FILE_SUFFIXES = {
    ".jsonl",
    ".json",
    ".ndjson",
    ".gz",
    ".txt",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".zst",
    ".zip",
}
_FIRST = 5
# With each of these before it a built-in prompt is another one.
_MANNERS = ("", "Answer briefly. ", "Answer in detail. ", "Answer for a beginner. ", "Answer as a list. ")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The prompts of an experiment, in order, and what they were read from."""

    prompts: tuple[Prompt, ...]
    facts: DatasetFacts


def load_prompts(config: ExperimentConfig) -> Dataset:
    """The `config.n` prompts of `config.dataset`, chosen and ordered by `config.random_seed`.

    They are the first n of a seeded shuffle, so a larger n under the same seed begins with the same prompts;
    conversations stay whole in it, but for the last. Those of a trace are its first n, or all where it has
    fewer.
    ConfigError when there is no such dataset, it is too small, or a file holds something else: it names the
    file and the place. PreFlightError where the hub can't be asked for one of its datasets.
    """
    if config.load is not None and config.load.trace is not None:
        return _trace(config, config.load.trace)
    found, facts = _all_prompts(config)
    if config.n > len(found):
        name, skipped = config.dataset.name, facts.skipped_count
        without = f" ({skipped} of {facts.records} records hold none: {facts.reasons})" if skipped else ""
        raise ConfigError(
            f"dataset {name} has {counted(len(found), 'prompt')}{without}, and n is {config.n}",
            hint=(f"lower n to {len(found)}, " if found else "")
            + "give a larger .jsonl file, or use the dataset synthetic",
        )
    # Synthetic ones are drawn by place, and have no order of their own.
    if config.dataset.name != "synthetic":
        starts = [place for place, prompt in enumerate(found) if prompt.turn == 1]
        whole = [found[start:end] for start, end in pairwise([*starts, len(found)])]
        random.Random(config.random_seed).shuffle(whole)  # noqa: S311  repeatable, not secret
        found = list(chain.from_iterable(whole))
    chosen = tuple(found[: config.n])
    _check_lengths(config, chosen)
    own = sum(prompt.output_tokens is not None for prompt in chosen)
    count = sum(prompt.turn == 1 for prompt in chosen) if config.dataset.turns == "all" else None
    judged = sum(prompt.reference is not None for prompt in chosen)
    if not judged and (config.dataset.answer or config.dataset.matcher not in {"auto", "none"}):
        raise ConfigError(
            f"answers are to be judged, and no prompt of {config.dataset.name} has a reference answer",
            hint="say which key holds it: --set dataset.answer=target",
        )
    told = replace(facts, own_lengths=own, conversations=count, prompts=len(chosen), references=judged)
    return Dataset(chosen, told)


def _trace(config: ExperimentConfig, path: Path) -> Dataset:
    trace = read_trace(path, most=config.n)
    for what, name in (("input", "max_input_tokens"), ("output", "max_output_tokens")):
        most, record = max(
            ((getattr(one, f"{what}_tokens"), one) for one in trace.records), key=lambda pair: pair[0]
        )
        if most > getattr(config, name):
            raise ConfigError(
                f"load.trace {path}, {record.place}: {most} {what} tokens, and {name} is "
                f"{getattr(config, name)}",
                hint=f"--set {name}={most} lets each request have its own length; n limits how many are used",
            )
    prompts = tuple(
        Prompt(one.place, length=one.input_tokens, output_tokens=one.output_tokens, blocks=one.blocks)
        for one in trace.records
    )
    facts = DatasetFacts(
        str(path),
        (f"{trace.form} trace",),
        "line",
        len(prompts),
        own_lengths=len(prompts),
        prompts=len(prompts),
    )
    return Dataset(prompts, facts)


def _is_judged(config: ExperimentConfig) -> bool:
    """With exact lengths answers are cut or padded: they are judged only where that was asked for."""
    asked = config.dataset
    if asked.matcher == "none":
        return False
    return config.output_length == "natural" or asked.answer is not None or asked.matcher != "auto"


def _reference(config: ExperimentConfig, record: object) -> Reference | None:
    asked = config.dataset.matcher
    matcher = None if asked == "auto" or asked == "none" else asked  # noqa: PLR1714  mypy narrows this one
    return reference_of(record, key=config.dataset.answer, matcher=matcher)


def _all_prompts(config: ExperimentConfig) -> tuple[list[Prompt], DatasetFacts]:
    name = config.dataset.name
    if name in BUILT_IN:
        return {"synthetic": _synthetic, "mixed": _mixed, "ai-energy-score": _score}[name](config)
    if (pasted := pasted_dataset(name)) is not None:
        raise ConfigError(f"dataset {masked(name)!r} {pasted.reason}", hint=pasted.way_out)
    if name.startswith(hub.PREFIX):
        asked = hub.parse_name(name)
        source, rows = hub.rows(asked)
        return _prompts(config, enumerate(rows, start=1), source=source, column=asked.column)
    if name.startswith(evaluation.PREFIX):
        return _of_task(config, name)
    if _is_file(name):
        path = Path(name).expanduser()
        with opened(path) as records:
            return _prompts(config, records.values, source=str(path), by_line=records.numbered_by == "line")
    return _from_plugin(config, name)


def _prompts(
    config: ExperimentConfig,
    records: Iterable[tuple[int, object]],
    *,
    source: str,
    by_line: bool = False,
    column: str | None = None,
) -> tuple[list[Prompt], DatasetFacts]:
    """The prompts of all records; those that hold none are counted, or refused under `dataset.strict`."""
    name, unit = config.dataset.name, "line" if by_line else "record"
    column = column or config.dataset.column
    prompts: list[Prompt] = []
    formats: Counter[str] = Counter()
    skipped: dict[str, list[int]] = {}
    count = 0
    for number, record in records:
        count += 1
        where = f"dataset {name}, {unit} {number}"
        try:
            kind, found = read_record(record, number, column=column, every_turn=config.dataset.turns == "all")
            if _is_judged(config):
                reference = _reference(config, record)
                found = tuple(replace(one, reference=reference) for one in found)
        except OddRecordError as error:
            if config.dataset.strict:
                raise ConfigError(
                    f"{where}: {error}",
                    hint="mend or remove it, or skip and count such: dataset.strict=false",
                ) from error
            skipped.setdefault(str(error), []).append(number)
        except UnknownFormatError as error:
            raise ConfigError(f"{where} is {error}: no known format", hint=_way_out(error)) from error
        else:
            formats[kind] += 1
            prompts.extend(found)
    if not count:
        raise ConfigError(f"dataset {name} is empty", hint=JSON_FORMATS)
    odd = tuple(
        SkippedRecords(why, len(numbers), tuple(numbers[:_FIRST])) for why, numbers in skipped.items()
    )
    kinds = tuple(kind for kind, _ in formats.most_common())
    return prompts, DatasetFacts(source, kinds, "line" if by_line else "record", count, odd)


def _way_out(error: UnknownFormatError) -> str:
    if error.columns:
        return f"say which key holds the prompt: --set dataset.column={error.columns[0]}"
    return JSON_FORMATS


def _check_lengths(config: ExperimentConfig, prompts: Iterable[Prompt]) -> None:
    """The engines make room for `max_output_tokens`: what a record asks beyond it is refused, never cut."""
    most, prompt = max(((one.output_tokens or 0, one) for one in prompts), key=lambda pair: pair[0])
    if most > config.max_output_tokens:
        raise ConfigError(
            f"prompt {prompt.id} of dataset {config.dataset.name} asks for {most} output tokens, and "
            f"max_output_tokens is {config.max_output_tokens}",
            hint=f"--set max_output_tokens={most} lets each prompt have its own length",
        )


def _of_task(config: ExperimentConfig, name: str) -> tuple[list[Prompt], DatasetFacts]:
    prompts = evaluation.task_prompts(name)
    if not _is_judged(config):
        prompts = [replace(prompt, reference=None) for prompt in prompts]
    return prompts, DatasetFacts(name, ("lm-eval",), "record", len(prompts))


def _synthetic(config: ExperimentConfig) -> tuple[list[Prompt], DatasetFacts]:
    length = config.dataset.prompt_tokens
    if length > config.max_input_tokens:
        raise ConfigError(
            f"dataset.prompt_tokens {length} is more than max_input_tokens {config.max_input_tokens}",
            hint="raise max_input_tokens, or lower dataset.prompt_tokens",
        )
    prompts = [Prompt(f"synthetic-{index}", length=length) for index in range(config.n)]
    return prompts, DatasetFacts("drawn from the vocabulary", (), "record", config.n)


def _mixed(_config: ExperimentConfig) -> tuple[list[Prompt], DatasetFacts]:
    with resources.as_file(resources.files(__package__) / "mixed.jsonl") as path, opened(path) as records:
        prompts = [prompt for number, record in records.values for prompt in read_record(record, number)[1]]
    return prompts, DatasetFacts("built in", ("text",), "line", len(prompts))


def _score(config: ExperimentConfig) -> tuple[list[Prompt], DatasetFacts]:
    """The dataset of AI Energy Score's text generation where it lies on this disk, else prompts of llem's
    own. The network is not asked: all runs of an experiment must get the same.
    """
    snapshot = cached_snapshot(SCORE_ID, "main", kind="datasets")
    if snapshot is not None and find_spec("datasets") is not None:
        _, rows = hub.rows(hub.HubName(str(snapshot), split="train"))
        return _prompts(
            config, enumerate(rows, start=1), source=f"{SCORE_ID}, {snapshot.name}", column="text"
        )
    why = f"{SCORE_ID} is not in the hub cache"
    way = f"hf download --repo-type dataset {SCORE_ID}"
    if snapshot is not None:
        why, way = "the package datasets is not installed", install("datasets")
    prompts = [
        replace(prompt, id=f"{prompt.id}-{number}", text=f"{manner}{prompt.text}")
        for number, manner in enumerate(_MANNERS, start=1)
        for prompt in _mixed(config)[0]
    ]
    remark = f"prompts of llem's own making, not those of AI Energy Score: {why} ({way})"
    return prompts, DatasetFacts("made by llem", ("text",), "record", len(prompts), remark=remark)


def _is_file(name: str) -> bool:
    return name[0] in "/.~" or Path(name).suffix.lower() in FILE_SUFFIXES or exists(name)


def _from_plugin(config: ExperimentConfig, name: str) -> tuple[list[Prompt], DatasetFacts]:
    dataset = plugins.DATASETS.load(name)
    if dataset is not None:
        with plugins.DATASETS.blamed(name, "broke while its prompts were read"):
            records = list(dataset(name))
        return _prompts(config, enumerate(records, start=1), source=f"the plug-in {name}")
    names = sorted({*BUILT_IN} | plugins.DATASETS.names())
    near = get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        guess = f"a dataset of the hub is {hub.PREFIX}{name}; "
    raise ConfigError(
        f"there is no dataset {name!r}",
        hint=f"{guess}it is one of {', '.join(names)}, hf:<name>, or the path of a .json or .jsonl file",
    )
