"""What does one record of a dataset ask of a model, in whichever of the usual formats it is written?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Turn: TypeAlias = tuple[str, str]
Matcher: TypeAlias = Literal["exact", "number", "choice", "regex", "lm-eval"]

_IDS = ("id", "custom_id", "task_id", "question_id", "session_id", "uuid")
_CONVERSATIONS = {"conversations": "ShareGPT", "conversation": "ShareGPT", "messages": "OpenAI messages"}
_TEXTS = {
    "instruction": "instruction set",
    "text_input": "aiperf",
    "input_text": "aiperf",
    "text": "text",
    "question": "question",
    "query": "question",
    "input": "input",
    "inputs": "input",
    "content": "OpenAI messages",
}
_FORMATS = {**_CONVERSATIONS, **_TEXTS, "turns": "aiperf", "texts": "aiperf"}
_INPUT_LENGTHS = ("input_length", "input_len", "input_tokens")
_OUTPUT_LENGTHS = (
    "output_tokens",
    "output_length",
    "output_len",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
)
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


class OddRecordError(ValueError):
    """A record of a known format without a prompt; the message is the reason, alike for all of a kind."""


class UnknownFormatError(ValueError):
    """A record of no known format; its message says what was seen, and `columns` hold a text."""

    def __init__(self, seen: str, columns: Sequence[str] = ()) -> None:
        super().__init__(seen)
        self.columns = tuple(columns)


@dataclass(frozen=True, slots=True)
class Reference:
    """How an answer is judged, and which ones are right: any of them will do."""

    matcher: Matcher
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, or the length of a synthetic prompt in tokens; the other one is None.

    `turns` are the (role, content) pairs for a chat template where the text is more than a turn of the user.
    `output_tokens` is what the record itself asks for; None leaves it to the experiment. `turn` is the place
    in a conversation, from 1; the turn before it is the prompt before it. `blocks` of a synthetic prompt name
    its runs of tokens, which are the same wherever the name is. `reference` is what the answer is judged by,
    None where it is not.
    """

    id: str
    text: str | None = None
    length: int | None = None
    turns: tuple[Turn, ...] | None = None
    output_tokens: int | None = None
    turn: int = 1
    blocks: tuple[int, ...] | None = None
    reference: Reference | None = None


def read_record(
    record: object, number: int, *, column: str | None = None, every_turn: bool = False
) -> tuple[str, tuple[Prompt, ...]]:
    """The format of a record and its prompt, taken from `column` where one is given.

    With `every_turn` a conversation has one for each answer that it awaits, which holds all that was said
    before it. OddRecordError where the format is known and there is no prompt in it; UnknownFormatError else.
    """
    if isinstance(record, str):
        return "text", (Prompt(str(number), _checked(record)),)
    if isinstance(record, list) and record and all(isinstance(one, dict) for one in record):
        record = {"messages": record}
    if record is None or record == {}:
        raise OddRecordError("the record is empty")
    if not isinstance(record, dict):
        raise UnknownFormatError(_kind(record))
    key = next((str(record[name]) for name in _IDS if isinstance(record.get(name), str | int)), str(number))
    body, batch = record.get("body"), None
    if isinstance(body, dict):
        record, batch = body, "OpenAI batch"
    found, asked = _asked(record, column, every_turn)
    if batch is None and found == "prompt" and "output_tokens" in record:
        found = "vLLM custom"
    wanted = _output_tokens(record)
    return batch or found, tuple(
        Prompt(f"{key}.{place}" if len(asked) > 1 else key, text, length, turns, wanted, place)
        for place, (text, length, turns) in enumerate(asked, start=1)
    )


_Asked: TypeAlias = tuple[str | None, int | None, tuple[Turn, ...] | None]


def _asked(record: Mapping[str, object], column: str | None, every_turn: bool) -> tuple[str, list[_Asked]]:
    if column is not None:
        if column not in record:
            raise UnknownFormatError(f"an object without {column}", _columns(record))
        return column, _of_value(record[column], every_turn)
    names = ("prompt", *_CONVERSATIONS, "turns", "texts", *_TEXTS)
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        return "lengths", [(None, _input_length(record, names), None)]
    value = record[name]
    match name:
        case "turns" if isinstance(value, list):
            said = [one.get("text") or one.get("texts") if isinstance(one, dict) else one for one in value]
            if every_turn and said:
                # Questions alone: each awaits an answer, and none is recorded.
                asked: list[dict[str, object]] = [{"content": text} for text in said]
                ends = range(1, len(asked) + 1)
                return "aiperf", [one for end in ends for one in _of_value(asked[:end], every_turn=False)]
            value = (said or [""])[0]
        case "texts" if isinstance(value, list):
            contents = [one.get("contents") if isinstance(one, dict) else one for one in value]
            parts = [part for one in contents for part in (one if isinstance(one, list) else [one])]
            value = "\n\n".join(map(str, parts))
        case "instruction":
            more = record.get("input") or record.get("context")
            value = f"{value}\n\n{more}" if isinstance(more, str) and more.strip() else value
        case "content":
            value = [record]
    return _FORMATS.get(name, name), _of_value(value, every_turn)


def _of_value(value: object, every_turn: bool) -> list[_Asked]:
    if value is None:
        raise OddRecordError("the prompt is null")
    if isinstance(value, str):
        return [(_checked(value), None, None)]
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return [
            (
                "\n\n".join(content for _, content in turns),
                None,
                None if len(turns) == 1 and turns[0][0] == "user" else turns,
            )
            for turns in _conversations(value, every_turn)
        ]
    raise OddRecordError("the prompt is not text")


def _conversations(items: Sequence[Mapping[str, object]], every_turn: bool) -> list[tuple[Turn, ...]]:
    """What comes before an answer: of ShareGPT, as in its other readers, the first question alone; of
    messages all up to the last one that is not an answer; or what comes before each answer.
    """
    if not items:
        raise OddRecordError("the conversation is empty")
    turns = [_turn(item) for item in items]
    spoken = [role for role, _ in turns if role not in {"system", "developer"}]
    if spoken[:1] == ["assistant"]:
        raise OddRecordError("an answer comes first")
    if "user" not in spoken:
        raise OddRecordError("no turn is a user's")
    first = [role for role, _ in turns].index("user") + 1
    if not every_turn and any("from" in item for item in items):
        turns = turns[:first]
    while turns[-1][0] == "assistant":
        turns.pop()
    ends = (
        [end for end in range(first, len(turns)) if turns[end][0] == "assistant" != turns[end - 1][0]]
        if every_turn
        else []
    )
    for _, content in turns:
        _check_unicode(content)
    for end in (ends := [*ends, len(turns)]):
        _checked(turns[end - 1][1])
    return [tuple(turns[:end]) for end in ends]


def _turn(item: Mapping[str, object]) -> Turn:
    role = item.get("role", item.get("from", "user"))
    content = item.get("content", item.get("value", item.get("text")))
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "\n\n".join(part for part in parts if isinstance(part, str)) if all(parts) else parts
    if content is None:
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise OddRecordError("a turn is not text")
    return _ROLES.get(role, role), content


def _input_length(record: Mapping[str, object], known: Sequence[str]) -> int:
    for name in _INPUT_LENGTHS:
        if name in record:
            return _positive(record[name], "the input length")
    if any(name in record for name in known):
        raise OddRecordError("the prompt is null")
    if "input_ids" in record or "prompt_token_ids" in record:
        raise UnknownFormatError("an object with token ids, which belong to one tokenizer", _columns(record))
    raise UnknownFormatError(_kind(record), _columns(record))


def _output_tokens(record: Mapping[str, object]) -> int | None:
    places = [record, *(record[name] for name in ("parameters", "sampling_params") if name in record)]
    for place in places:
        for name in _OUTPUT_LENGTHS:
            if isinstance(place, dict) and place.get(name) is not None:
                return _positive(place[name], "the output length")
    return None


def _positive(value: object, what: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise OddRecordError(f"{what} is not a positive whole number")
    return value


def _checked(text: str) -> str:
    if not text.strip():
        raise OddRecordError("the prompt is empty")
    _check_unicode(text)
    return text


def _check_unicode(text: str) -> None:
    """JSON can escape half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OddRecordError("half of a surrogate pair is not Unicode") from error


def _columns(record: Mapping[str, object]) -> list[str]:
    return [name for name, value in record.items() if isinstance(value, str) and value.strip()]


def _kind(record: object) -> str:
    if isinstance(record, dict):
        names = list(record)
        shown = ", ".join(str(name)[:40] for name in names[:6]) + (", …" if len(names) > 6 else "")
        return f"an object with the keys {shown}"
    return (
        "a list" if isinstance(record, list) else "true or false" if isinstance(record, bool) else "a number"
    )
