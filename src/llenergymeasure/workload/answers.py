"""Which answer does a record call right, and is what a model said that answer?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from llenergymeasure.workload import evaluation
from llenergymeasure.workload.formats import Matcher, OddRecordError, Reference

KEYS = ("answer", "answers", "answerKey")
_CHOICES = ("choices", "options")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]?")
# In the order of how plainly they say it; the last one found counts.
_SAID = (
    re.compile(r"(?:answer|option|choice)\s*(?:is|:|=)?\s*\**\(?([A-Z])\b", re.IGNORECASE),
    re.compile(r"^\s*\**\(?([A-Z])\)?\**(?:[.:)\s]|$)"),
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"\b([B-HJ-Z])\b"),
)


def reference_of(record: object, *, key: str | None, matcher: Matcher | None) -> Reference | None:
    """The reference answer of a record, from `key` or one of the usual ones; None where it has none.

    Without a matcher one is chosen: choice where there are choices or the answer is a single letter, number
    where it is a number (of `… #### 42` what comes last), exact else. OddRecordError where it can't be one.
    """
    if not isinstance(record, dict):
        return None
    name = key or next((name for name in KEYS if record.get(name) is not None), None)
    if name is None or (value := record.get(name)) is None:
        return None
    answers = tuple(_texts(value))
    if not answers:
        return None
    choices = _choices(record)
    if choices and isinstance(value, int) and 0 <= value < len(choices):
        answers = (chr(ord("A") + value),)
    elif choices and matcher in {None, "choice"}:
        letters = [chr(ord("A") + at) for at, text in enumerate(choices) if text in answers]
        answers = tuple(letters) or answers
    chosen = matcher or _fitting(answers)
    if chosen == "number":
        answers = tuple(
            one for text in answers if (one := _last_number(text.rpartition("####")[2])) is not None
        )
    elif chosen == "choice":
        answers = tuple(found[1].upper() for text in answers if (found := _LETTER.fullmatch(text.strip())))
    if not answers:
        raise OddRecordError(f"the reference answer does not suit the matcher {chosen}")
    if chosen == "regex":
        _check_patterns(answers)
    return Reference(chosen, answers)


def is_right(said: str, reference: Reference) -> bool:
    """Whether the text is the answer: all of it (exact, but for case, white space and a full stop), its last
    number (after `####` where that is), the letter that it names last, or what the pattern finds anywhere.

    What a model thinks before `</think>` is not its answer.
    """
    said = said.rpartition("</think>")[2]
    if reference.matcher == "lm-eval":
        task, at = reference.answers
        return evaluation.is_right(task, int(at), said)
    said = said.strip()
    match reference.matcher:
        case "exact":
            return _plain(said) in {_plain(one) for one in reference.answers}
        case "number":
            found = _last_number(said.rpartition("####")[2])
            return found is not None and any(float(found) == float(one) for one in reference.answers)
        case "choice":
            return _letter(said) in reference.answers
        case "regex":
            return any(re.search(one, said) is not None for one in reference.answers)


def _texts(value: object) -> list[str]:
    """Answers as they are written: one, several, with aliases (TriviaQA) or spans (SQuAD)."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, str | int | float):
        return [str(value)] if str(value).strip() else []
    if isinstance(value, Mapping):
        return [text for name in ("value", "aliases", "text") for text in _texts(value.get(name))]
    if isinstance(value, Sequence):
        return [text for one in value for text in _texts(one)]
    return []


def _choices(record: Mapping[str, object]) -> list[str]:
    found = next((record[name] for name in _CHOICES if record.get(name)), None)
    found = found.get("text") if isinstance(found, dict) else found
    return [str(one) for one in found] if isinstance(found, list) else []


def _fitting(answers: Sequence[str]) -> Matcher:
    if all(_LETTER.fullmatch(one.strip()) for one in answers):
        return "choice"
    tails = [one.rpartition("####")[2].strip().lstrip("$").rstrip("%.") for one in answers]
    return "number" if all(_NUMBER.fullmatch(one) for one in tails) else "exact"


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def _letter(said: str) -> str | None:
    for pattern in _SAID:
        if found := pattern.findall(said):
            return str(found[-1]).upper()
    return None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".")


def _check_patterns(patterns: Sequence[str]) -> None:
    try:
        for one in patterns:
            re.compile(one)
    except re.error as error:
        raise OddRecordError(f"the reference answer is not a regular expression: {error}") from error
