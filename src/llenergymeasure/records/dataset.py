"""Where did the prompts of a run come from, and which records of the dataset gave none?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SkippedRecords:
    """Records that hold no prompt, for one reason; `first` are the numbers of the first of them, from 1."""

    reason: str
    count: int
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a dataset was read from. `formats` are those of its records, the most frequent first.

    `records` counts what it holds, numbered by line or by place; those in `skipped` gave no prompt.
    `own_lengths` of the prompts that were used name an output length of their own, and the answers to
    `references` of them are judged by a reference answer. `remark` says what else is
    worth knowing, such as why prompts of llem's own making stand in for a dataset that is not there.
    `prompts` were used, None where an older version did not say; they are the turns of so many
    `conversations`, None where every prompt is one of its own. `left_out` turns would have been longer than
    max_input_tokens, and ended their conversation.
    """

    source: str
    formats: tuple[str, ...]
    numbered_by: Literal["line", "record"]
    records: int
    skipped: tuple[SkippedRecords, ...] = ()
    own_lengths: int = 0
    references: int = 0
    remark: str | None = None
    prompts: int | None = None
    conversations: int | None = None
    left_out: int = 0

    @property
    def skipped_count(self) -> int:
        return sum(one.count for one in self.skipped)

    @property
    def reasons(self) -> str:
        """Why records were skipped: each reason with its count and the first places."""
        return "; ".join(
            f"{one.reason} ({one.count}: {self.numbered_by} "
            f"{', '.join(map(str, one.first))}{' …' if one.count > len(one.first) else ''})"
            for one in self.skipped
        )

    def notes(self) -> Iterator[str]:
        """What is worth knowing beyond the name."""
        if self.remark is not None:
            yield self.remark
        if self.skipped:
            yield f"{self.skipped_count} of {self.records} records hold no prompt: {self.reasons}"
        if self.conversations is not None:
            yield f"{counted(self.prompts or 0, 'turn')} of {counted(self.conversations, 'conversation')}"
        if self.left_out:
            yield f"{counted(self.left_out, 'later turn')} longer than max_input_tokens left out"
        if self.own_lengths:
            have = "has its" if self.own_lengths == 1 else "have their"
            yield f"{counted(self.own_lengths, 'prompt')} {have} own output length"


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
