"""What became of each request, be they eight or hundreds of thousands?"""

from __future__ import annotations

import base64
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

    from llenergymeasure.records.measuring import Integers

FinishReason: TypeAlias = Literal["eos", "length", "error"]
FINISHES: tuple[FinishReason, ...] = get_args(FinishReason)
# So many objects at once are made of columns.
_TOGETHER = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is the reference of its record, by which matcher; `answer` is its text only where it
    was to be kept.
    """

    matcher: str
    correct: bool
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one request in one walk over the workload.

    `output_tokens` counts generated tokens up to and including end-of-sequence, never padding. `t_sent_ns`
    is when its batch was handed to the engine; `t_scheduled_ns` when the load wanted it sent. Both token
    counts are the engine's, and of a request that failed (`finish` is "error") what came before it did; the
    `local_` ones are llem's own by the model's tokenizer, None where it has none. `verdict` is None where the
    answer was not judged.
    """

    index: int
    walk: int
    batch: int
    prompt_tokens: int
    output_tokens: int
    t_scheduled_ns: int
    t_sent_ns: int
    t_first_ns: int | None
    t_end_ns: int
    finish: FinishReason
    local_prompt_tokens: int | None = None
    local_output_tokens: int | None = None
    verdict: Verdict | None = None


COLUMNS = tuple(one.name for one in fields(Completion) if one.name != "verdict")
_FINISH, _VERDICTS = COLUMNS.index("finish"), "verdicts"


class Completions(Sequence[Completion]):
    """Completions of a running load as columns of numbers, with the few verdicts beside them: an object is
    made each time that it is asked for. As JSON about 20 bytes each.
    """

    __slots__ = ("_rows", "_verdicts")
    __hash__ = None  # type: ignore[assignment]  # an array has none either

    def __init__(self, rows: Integers, verdicts: Mapping[int, Verdict] | None = None) -> None:
        """A row for each, in the order of COLUMNS; -1 is None, and `finish` the place in its list. Verdicts
        are by the number of their row.
        """
        self._rows = rows
        self._verdicts = verdicts or {}

    @classmethod
    def of(cls, completions: Iterable[Completion]) -> Completions:
        """Holds none of them."""
        import numpy as np

        rows, verdicts = array("q"), {}
        for number, one in enumerate(completions):
            if one.verdict is not None:
                verdicts[number] = one.verdict
            values = [getattr(one, name) for name in COLUMNS]
            values[_FINISH] = FINISHES.index(one.finish)
            rows.extend(-1 if value is None else value for value in values)
        return cls(np.frombuffer(rows, dtype=np.int64).reshape(-1, len(COLUMNS)), verdicts)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Completion: ...
    @overload
    def __getitem__(self, at: slice) -> Completions: ...
    def __getitem__(self, at: int | slice) -> Completion | Completions:
        if isinstance(at, slice):
            return Completions.of(map(self.__getitem__, range(*at.indices(len(self)))))
        at = range(len(self))[at]
        return self._of_row(self._rows[at].tolist(), at)

    def __iter__(self) -> Iterator[Completion]:
        for start in range(0, len(self._rows), _TOGETHER):
            rows = self._rows[start : start + _TOGETHER].tolist()
            yield from (self._of_row(row, at) for at, row in enumerate(rows, start))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return f"<{len(self)} completions>"

    def _of_row(self, row: list[Any], at: int) -> Completion:
        values: list[Any] = [None if value == -1 else value for value in row]
        values[_FINISH] = FINISHES[row[_FINISH]]
        values.append(self._verdicts.get(at))
        return Completion(*values)

    def encoded(self) -> dict[str, Any]:
        """Of each column the steps from row to row, their bytes by place, deflated; of each verdict its row
        and fields.
        """
        import numpy as np

        steps = np.diff(self._rows, axis=0, prepend=np.zeros((1, len(COLUMNS)), np.int64)).astype("<i8")
        columns: dict[str, Any] = {
            name: base64.b64encode(
                zlib.compress(np.ascontiguousarray(column).view(np.uint8).reshape(-1, 8).T.tobytes())
            ).decode()
            for name, column in zip(COLUMNS, steps.T, strict=True)
        }
        verdicts = [[at, *astuple(one)] for at, one in self._verdicts.items()]
        return columns | ({_VERDICTS: verdicts} if verdicts else {})

    @classmethod
    def decoded(cls, columns: Mapping[str, Any]) -> Completions:
        """ValueError where it is none."""
        import numpy as np

        if set(columns) - {_VERDICTS} != set(COLUMNS):
            raise ValueError(f"columns of requests are {', '.join(COLUMNS)}")
        steps = []
        for name in COLUMNS:
            try:
                data = zlib.decompress(base64.b64decode(columns[name]))
            except (zlib.error, TypeError) as error:
                raise ValueError(f"the column {name} is damaged: {error}") from error
            steps.append(np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(8, -1).T).view("<i8"))
        rows = np.cumsum(np.concatenate(steps, axis=1), axis=0, dtype=np.int64)
        if not ((rows[:, _FINISH] >= 0) & (rows[:, _FINISH] < len(FINISHES))).all():
            raise ValueError("the column finish is damaged")
        try:
            verdicts = {at: Verdict(*fields_) for at, *fields_ in columns.get(_VERDICTS, ())}
        except TypeError as error:
            raise ValueError(f"a verdict is damaged: {error}") from error
        return cls(rows, verdicts)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _read, serialization=core_schema.plain_serializer_function_ser_schema(cls.encoded)
        )


def _read(given: object) -> Completions:
    if isinstance(given, Completions):
        return given
    if not isinstance(given, dict):
        raise ValueError("requests are columns, or a list of objects")
    return Completions.decoded(given)
