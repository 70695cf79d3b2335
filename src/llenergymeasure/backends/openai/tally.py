"""What falls into each window of a running load: tokens by when they came, requests by when they ended?"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llenergymeasure.records import Completion, Completions, Generation, Served
from llenergymeasure.records.completions import COLUMNS, FINISHES
from llenergymeasure.records.running import GAP_BINS

if TYPE_CHECKING:
    from llenergymeasure.records.measuring import Integers

_CANCELLED = len(FINISHES)
# What is kept of a request; -1 stands for None.
_FIELDS = (
    *("index", "walk", "prompt_tokens", "output_tokens"),
    *("t_scheduled_ns", "t_sent_ns", "t_first_ns", "t_end_ns", "finish"),
)
# Times of chunks are put into windows by so many together: at once that takes well under a millisecond.
_TOGETHER = 4096


class Tally:
    """Windows between `edges_ns`. It grows by a row of numbers for each request, and by nothing else."""

    def __init__(self, edges_ns: Sequence[int]) -> None:
        import numpy as np

        self._edges = np.array(edges_ns, dtype=np.int64)
        self._count = len(edges_ns) - 1
        self._rows = array("q")
        self._prompt, self._output, self._chunks = np.zeros((3, self._count), dtype=np.int64)
        self._gaps: list[dict[int, int]] = [{} for _ in range(self._count)]
        # What is in no window yet. Of each chunk when it came, its tokens, and how long after the one before
        # it (-1: it is the first, -2: it is none); of each answer when it began, and the tokens of its
        # prompt.
        self._came, self._tokens, self._after = array("q"), array("q"), array("q")
        self._began, self._read = array("q"), array("q")

    def add(self, done: Completion, chunk_ns: Sequence[int], *, is_cancelled: bool) -> None:
        """A request that has ended, with when each chunk of its answer came. Its tokens are spread evenly
        over these, and add up to what the server counts.
        """
        values = [getattr(done, name) for name in _FIELDS[:-1]]
        self._rows.extend(-1 if value is None else value for value in values)
        self._rows.append(_CANCELLED if is_cancelled else FINISHES.index(done.finish))
        came_ns, tokens = chunk_ns or (done.t_end_ns,), done.output_tokens
        count = len(came_ns)
        self._began.append(came_ns[0])
        self._read.append(done.prompt_tokens)
        self._came.extend(came_ns)
        self._tokens.extend(
            [1] * count
            if tokens == count
            else (tokens * (k + 1) // count - tokens * k // count for k in range(count))
        )
        self._after.append(-1 if chunk_ns else -2)
        self._after.extend(map(int.__sub__, came_ns[1:], came_ns))
        if len(self._came) >= _TOGETHER:
            self._put_away()

    def windows(self) -> tuple[tuple[Generation, Served], ...]:
        """Of each window. Requests that were cancelled have ended in none."""
        import numpy as np

        self._put_away()
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, len(_FIELDS))
        column = {name: rows[:, at] for at, name in enumerate(_FIELDS)}
        sent_ns, end_ns = column["t_sent_ns"], column["t_end_ns"]
        ended_in = np.searchsorted(self._edges, end_ns, side="right") - 1
        whole = column["finish"] != _CANCELLED
        found = []
        for at in range(self._count):
            start, end = int(self._edges[at]), int(self._edges[at + 1])
            waited_ns = np.clip(np.minimum(end_ns, end) - np.maximum(sent_ns, start), 0, None).sum()
            served = Served(
                prompt_tokens=int(self._prompt[at]),
                output_tokens=int(self._output[at]),
                sent=int(((sent_ns >= start) & (sent_ns < end)).sum()),
                in_flight_mean=float(waited_ns / (end - start)),
                in_flight_most=_most_at_once(sent_ns, end_ns, start, end),
                chunks=int(self._chunks[at]),
                gaps=tuple(sorted(self._gaps[at].items())),
                client_cpu_s=0.0,
            )
            found.append((Generation(_completions(rows[(ended_in == at) & whole])), served))
        return tuple(found)

    def _in_windows(self, came_ns: Integers, amounts: Integers) -> Integers:
        """The sum of the amounts that came in each window."""
        import numpy as np

        # What came before the first edge and what came from the last one on is in none.
        sums = np.zeros(self._count + 2, dtype=np.int64)
        np.add.at(sums, np.searchsorted(self._edges, came_ns, side="right"), amounts)
        return sums[1:-1]

    def _put_away(self) -> None:
        import numpy as np

        waiting = (self._came, self._tokens, self._after, self._began, self._read)
        came, tokens, after, began, read = (np.array(one, dtype=np.int64) for one in waiting)
        for one in waiting:
            del one[:]
        self._prompt += self._in_windows(began, read)
        self._output += self._in_windows(came, tokens)
        self._chunks += self._in_windows(came, (after > -2).astype(np.int64))
        bins = np.floor(GAP_BINS * np.log(np.maximum(after, 1))).astype(np.int64)
        at = np.searchsorted(self._edges, came, side="right") - 1
        for window, gaps in enumerate(self._gaps):
            seen, counts = np.unique(bins[(at == window) & (after >= 0)], return_counts=True)
            for number, count in zip(seen.tolist(), counts.tolist(), strict=True):
                gaps[number] = gaps.get(number, 0) + count


def _completions(rows: Integers) -> Completions:
    import numpy as np

    columns = {name: rows[:, at] for at, name in enumerate(_FIELDS)}
    none = np.full(len(rows), -1)
    columns |= {"batch": np.zeros_like(none), "local_prompt_tokens": none, "local_output_tokens": none}
    return Completions(np.stack([columns[name] for name in COLUMNS], axis=1))


def _most_at_once(sent_ns: Integers, end_ns: Integers, start: int, end: int) -> int:
    """The largest number of requests that were on their way at some moment from `start` to before `end`."""
    import numpy as np

    at_first = int(((sent_ns <= start) & (end_ns > start)).sum())
    times = np.concatenate([sent_ns, end_ns])
    steps = np.repeat([1, -1], [len(sent_ns), len(end_ns)])
    inside = (times > start) & (times < end)
    # An answer that ends in the very moment in which another request is sent has made room for it.
    order = np.lexsort((steps[inside], times[inside]))
    return at_first + max(0, int(np.cumsum(steps[inside][order]).max(initial=0)))
