"""Where do prompts come from, and which of them does an experiment use?"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import IO

from llenergymeasure.config import plugins
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError

MAX_FILE_BYTES = 2**30
MAX_LINE_BYTES = 2**23
LINE_FORMAT = 'each line is a JSON string, or an object with a "prompt" or "text"'


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, or the length of a synthetic prompt in tokens; the other one is None."""

    id: str
    text: str | None = None
    length: int | None = None


def load_prompts(config: ExperimentConfig) -> tuple[Prompt, ...]:
    """The `config.n` prompts of `config.dataset`, chosen and ordered by `config.random_seed`.

    They are the first n of a seeded shuffle, so a larger n under the same seed begins with the same prompts.
    ConfigError when there is no such dataset, it is too small, or a file holds something else: it names the
    file and the line.
    """
    name = config.dataset.name
    if name == "synthetic":
        return _synthetic(config)
    if name == "mixed":
        with (resources.files(__package__) / "mixed.jsonl").open("rb") as file:
            prompts = list(_read_lines(file, name))
    elif name.endswith(".jsonl"):
        prompts = _read_file(Path(name).expanduser())
    else:
        prompts = _from_plugin(name)
    if config.n > len(prompts):
        raise ConfigError(
            f"dataset {name} has {len(prompts)} prompts, and n is {config.n}",
            hint=f"lower n to {len(prompts)}, give a larger .jsonl file, or use the dataset synthetic",
        )
    random.Random(config.random_seed).shuffle(prompts)  # noqa: S311  repeatable, not secret
    return tuple(prompts[: config.n])


def _synthetic(config: ExperimentConfig) -> tuple[Prompt, ...]:
    length = config.dataset.prompt_tokens
    if length > config.max_input_tokens:
        raise ConfigError(
            f"dataset.prompt_tokens {length} is more than max_input_tokens {config.max_input_tokens}",
            hint="raise max_input_tokens, or lower dataset.prompt_tokens",
        )
    return tuple(Prompt(f"synthetic-{index}", length=length) for index in range(config.n))


def _read_file(path: Path) -> list[Prompt]:
    try:
        if not path.exists():
            raise ConfigError(
                f"there is no dataset file {path}", hint="check the path; it is taken from here"
            )
        if not path.is_file():
            raise ConfigError(f"dataset {path} is no ordinary file", hint=LINE_FORMAT)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"dataset {path} has {size / 1e9:.1f} GB; at most {MAX_FILE_BYTES / 1e9:.1f} GB are read",
                hint=f"take a part of it, such as: head -n 10000 {path} > part.jsonl",
            )
        with path.open("rb") as file:
            prompts = list(_read_lines(file, str(path)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"dataset {path} can't be read: {error}", hint="check its path and mode") from error
    if not prompts:
        raise ConfigError(f"dataset {path} is empty", hint=LINE_FORMAT)
    return prompts


def _read_lines(file: IO[bytes], name: str) -> Iterator[Prompt]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"dataset {name}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(f"{where} is longer than {MAX_LINE_BYTES} bytes", hint=LINE_FORMAT)
        if line.strip():
            yield _parse_line(line, where, number)


def _parse_line(line: bytes, where: str, number: int) -> Prompt:
    try:
        entry = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {error}", hint=LINE_FORMAT) from error
    key = str(number)
    if isinstance(entry, dict):
        key = str(entry.get("id", number))
        if "prompt" not in entry and "text" not in entry:
            raise ConfigError(f"{where} has neither a prompt nor a text", hint=LINE_FORMAT)
        entry = entry.get("prompt", entry.get("text"))
    if not isinstance(entry, str):
        raise ConfigError(f"{where}: a prompt must be text, got {type(entry).__name__}", hint=LINE_FORMAT)
    return Prompt(key, _checked(entry, where))


def _checked(text: str, where: str) -> str:
    """JSON can escape half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} is not valid Unicode: {error.reason}", hint="remove it") from error
    return text


def _from_plugin(name: str) -> list[Prompt]:
    dataset = plugins.DATASETS.load(name)
    if dataset is None:
        names = sorted({"mixed", "synthetic"} | plugins.DATASETS.names())
        near = get_close_matches(name, names, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"there is no dataset {name!r}",
            hint=f"{guess}it is one of {', '.join(names)}, or the path of a file that ends in .jsonl",
        )
    with plugins.DATASETS.blamed(name, "broke while its prompts were read"):
        texts = list(dataset(name))
    return [
        Prompt(str(number), _plugin_text(text, name, number)) for number, text in enumerate(texts, start=1)
    ]


def _plugin_text(text: object, name: str, number: int) -> str:
    where = f"dataset {name}, prompt {number}"
    if not isinstance(text, str):
        raise ConfigError(
            f"{where} must be text, got {type(text).__name__}", hint="its plug-in must yield strings"
        )
    return _checked(text, where)
