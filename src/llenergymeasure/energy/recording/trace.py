"""How is a trace kept on disk, and read back?

History of the schema: 1, the first; round trips with other hosts may stand beside the gaps.

Long because writing and reading stand side by side: a field of the one needs the same in the other.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llenergymeasure.energy.recording.clock_offset import offset, quickest
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Domain, Gap, HostClock, RoundTrip, Series, Trace, Window
from llenergymeasure.results.folder import unwritable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pydantic import JsonValue, TypeAdapter

    from llenergymeasure.energy.recording.clock_offset import Offset
    from llenergymeasure.records import Integers

TRACE_SCHEMA_VERSION = 1
STREAM_NAME = "power.arrow"
PARQUET_NAME = "power.parquet"

# (index of the series, t_before_ns, t_after_ns, raw)
Row: TypeAlias = tuple[int, int, int, int]

# Around a window: what learning the rhythm of a counter and the power outside takes.
MARGIN_S = 5.0
_GROUP_ROWS = 131_072
_FROM_A_COPY = "take it from a copy of the run's folder"

_KEY = b"llenergymeasure.trace"
_GAPS = b"llenergymeasure.gaps"
_TRIPS = b"llenergymeasure.round_trips"
_COLUMNS = ("series", "t_before_ns", "t_after_ns", "raw")


@cache
def _domains() -> TypeAdapter[tuple[Domain, ...]]:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Domain, ...])


@cache
def _gap_list() -> TypeAdapter[tuple[Gap, ...]]:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Gap, ...])


@cache
def _trip_list() -> TypeAdapter[tuple[RoundTrip, ...]]:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[RoundTrip, ...])


def domains_as_json(domains: Sequence[Domain]) -> JsonValue:
    found: JsonValue = _domains().dump_python(tuple(domains), mode="json")
    return found


def domains_from_json(said: object) -> tuple[Domain, ...]:
    """ValueError where it is not what `domains_as_json` gives."""
    return _domains().validate_python(said)


def gaps_as_json(gaps: Sequence[Gap]) -> JsonValue:
    found: JsonValue = _gap_list().dump_python(tuple(gaps), mode="json")
    return found


def gaps_from_json(said: object) -> tuple[Gap, ...]:
    return _gap_list().validate_python(said)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a file says beside its rows."""

    domains: tuple[Domain, ...]
    gaps: tuple[Gap, ...]
    trips: tuple[RoundTrip, ...]


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([pa.field("series", pa.int16()), *(pa.field(name, pa.int64()) for name in _COLUMNS[1:])])


def series_keys(domains: Iterable[Domain]) -> list[tuple[str, str]]:
    """(domain, quantity) by its index in a file."""
    return [(domain.name, quantity.name) for domain in domains for quantity in domain.quantities]


class TraceWriter:
    """Appends to an Arrow IPC stream, in memory where `path` is None. What was written before SIGKILL can be
    read afterwards.
    """

    def __init__(self, path: Path | None, domains: Sequence[Domain]) -> None:
        import pyarrow as pa
        from pyarrow import ipc

        self._schema = _schema().with_metadata(_metadata(_Facts(tuple(domains), (), ())))
        try:
            self._sink = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
            self._stream = ipc.new_stream(self._sink, self._schema)
            # A batch of nothing brings the schema to the disk: a run that dies at once leaves a trace.
            self.write((), ())
        except OSError as error:
            raise unwritable("the trace", path or Path(), error) from error

    def write(
        self, rows: Sequence[Row] | array[int], gaps: Sequence[Gap], trips: Sequence[RoundTrip] = ()
    ) -> None:
        """One batch of rows, or of their numbers one after the other in an array of 64-bit integers, with the
        gaps that ended and the round trips with other hosts since the last one.

        It lies in the kernel's hands when this returns. OSError when the disk is full.
        """
        import numpy as np
        import pyarrow as pa

        table = np.asarray(rows, dtype=np.int64).reshape(-1, len(_COLUMNS))
        arrays = [pa.array(table[:, at].copy()).cast(field.type) for at, field in enumerate(self._schema)]
        batch = pa.record_batch(arrays, schema=self._schema)
        metadata = {_GAPS: _gap_list().dump_json(tuple(gaps))} if gaps else {}
        if trips:
            metadata[_TRIPS] = _trip_list().dump_json(tuple(trips))
        self._stream.write_batch(batch, custom_metadata=metadata or None)
        self._sink.flush()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._sink.close()


def compact(directory: Path) -> Path:
    """Turn the stream in `directory` into Parquet, aside and then renamed; the stream is removed.

    Never more than a row group is in memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream, final = directory / STREAM_NAME, directory / PARQUET_NAME
    try:
        facts = _facts_of_stream(stream)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ResultError(f"{stream} is not a trace, or is damaged: {error}") from error
    schema = _schema().with_metadata(_metadata(replace(facts, trips=_kept(facts.trips))))
    aside = directory / f".{PARQUET_NAME}.partial"
    try:
        with pq.ParquetWriter(
            aside,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(_COLUMNS[1:], "DELTA_BINARY_PACKED"),
            write_page_checksum=True,
        ) as writer:
            for batches in _grouped(batch for batch, _, _ in _batches(stream)):
                writer.write_table(pa.Table.from_batches(batches).cast(schema), row_group_size=_GROUP_ROWS)
        os.replace(aside, final)  # noqa: PTH105  the atomic one, by its own name
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise unwritable("the trace", final, error) from error
    stream.unlink()
    return final


def read_trace(path: Path, *, windows: Sequence[Window] | None = None) -> Trace:
    """The trace in a `.parquet` file, or in a `.arrow` stream up to its last whole batch.

    With `windows` only what was read in them and up to `MARGIN_S` around each is loaded (or somewhat more, as
    it lies in the file), however long the whole is. ResultError for a file that is missing, no trace, cut
    short or of a schema that this version can't read, and where the reads of a quantity are not in order of
    time or its facts hold a number that is not finite.
    """
    import pyarrow as pa

    try:
        if path.suffix == ".arrow":
            facts = _facts_of_stream(path)
            batches = [batch for batch, _, _ in _batches(path) if _batch_touches(batch, windows)]
            trace = _trace(pa.Table.from_batches(batches, schema=_schema()), facts)
        else:
            trace = _read_parquet(path, windows)
    except FileNotFoundError as error:
        raise ResultError(f"there is not a trace at {path}", hint="name the folder of a saved run") from error
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ResultError(f"{path} is not a trace, or is damaged: {error}") from error
    for (domain, quantity), series in trace.series.items():
        if why := _why_disordered(series):
            raise ResultError(f"{path} is damaged: {domain}, {quantity}: {why}", hint=_FROM_A_COPY)
    return trace


def _why_disordered(series: Series) -> str | None:
    import numpy as np

    if np.any(series.t_before_ns[1:] < series.t_before_ns[:-1]):
        return "its rows run backwards in time"
    if np.any(series.t_after_ns < series.t_before_ns):
        return "a read ends before it begins"
    return None


def _touches(first_ns: int, last_ns: int, wanted: Sequence[Window] | None) -> bool:
    """Whether what was read from `first_ns` to `last_ns` lies in one of the windows or near it."""
    margin_ns = round(MARGIN_S * 1e9)
    return wanted is None or any(
        window.start_ns - margin_ns <= last_ns and window.end_ns + margin_ns >= first_ns for window in wanted
    )


def _batch_touches(batch: pa.RecordBatch, wanted: Sequence[Window] | None) -> bool:
    """A batch is nearly in order of time: a read that took long is the only one out of its place."""
    times = batch.column(1).to_numpy()
    return bool(times.size) and _touches(int(times.min()), int(times.max()), wanted)


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        group.append(batch.replace_schema_metadata(None))
        rows += batch.num_rows
        if rows >= _GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _trace(table: pa.Table, facts: _Facts) -> Trace:
    import numpy as np
    import pyarrow as pa

    if table.schema.remove_metadata() != _schema() or any(one.null_count for one in table.columns):
        raise pa.ArrowInvalid("its columns are not whole numbers without gaps")
    index, before, after, raw = (table.column(name).to_numpy() for name in _COLUMNS)
    domains = facts.domains
    quantities = [quantity for domain in domains for quantity in domain.quantities]
    series = {}
    for number, (key, quantity) in enumerate(zip(series_keys(domains), quantities, strict=True)):
        rows = np.flatnonzero(index == number)
        if rows.size:
            series[key] = Series(quantity, before[rows], after[rows], raw[rows])
    return _in_time_of_here(Trace(domains, series, facts.gaps), facts.trips)


def _in_time_of_here(trace: Trace, trips: Sequence[RoundTrip]) -> Trace:
    """What other hosts read, moved by the offsets of their clocks. A jump of such a clock is a gap."""
    import numpy as np

    series, gaps, clocks = dict(trace.series), list(trace.gaps), dict[str, HostClock]()
    for host in dict.fromkeys(one.host for one in trips):
        mine = [domain.name for domain in trace.domains if domain.host == host]
        seen = offset([one for one in trips if one.host == host])
        clocks[host] = seen.clock

        def here(t_ns: Integers, seen: Offset = seen) -> Integers:
            moved = t_ns + np.rint(seen.at(t_ns)[0]).astype(np.int64)
            return np.maximum.accumulate(moved) if moved.size else moved

        for key in [key for key in series if key[0] in mine]:
            one = series[key]
            before = here(one.t_before_ns)
            series[key] = replace(
                one, t_before_ns=before, t_after_ns=np.maximum(before, here(one.t_after_ns))
            )
        for at, gap in enumerate(gaps):
            if gap.domain in mine:
                ends = here(np.array([gap.window.start_ns, gap.window.end_ns], dtype=np.int64))
                gaps[at] = replace(gap, window=Window(int(ends[0]), int(ends[1])))
        for jump in seen.jumps:
            first, last = here(np.array(jump, dtype=np.int64)).tolist()
            gaps += [
                Gap(Window(first, last), f"host_clock_jumped: the clock of {host}", name) for name in mine
            ]
    return replace(trace, series=series, gaps=tuple(gaps), clocks=clocks)


def _kept(trips: Sequence[RoundTrip]) -> tuple[RoundTrip, ...]:
    hosts = dict.fromkeys(one.host for one in trips)
    return tuple(one for host in hosts for one in quickest([trip for trip in trips if trip.host == host]))


def _metadata(facts: _Facts) -> dict[bytes, bytes]:
    said = {
        "schema": TRACE_SCHEMA_VERSION,
        "domains": _domains().dump_python(facts.domains, mode="json"),
        "gaps": _gap_list().dump_python(facts.gaps, mode="json"),
    }
    if facts.trips:
        said["round_trips"] = _trip_list().dump_python(facts.trips, mode="json")
    return {_KEY: json.dumps(said, allow_nan=False).encode()}


def _facts(schema: pa.Schema, path: Path) -> _Facts:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise ResultError(f"{path} is not a trace of llem")
    try:
        facts = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if facts["schema"] != TRACE_SCHEMA_VERSION:
            raise ResultError(
                f"{path} has trace schema {facts['schema']}; this version reads {TRACE_SCHEMA_VERSION}",
                hint="pip install --upgrade llenergymeasure",
            )
        return _Facts(
            _domains().validate_python(facts["domains"]),
            _gap_list().validate_python(facts["gaps"]),
            _trip_list().validate_python(facts.get("round_trips", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path}: the facts about its meters are damaged: {error}", hint=_FROM_A_COPY
        ) from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _batches(path: Path) -> Iterator[tuple[pa.RecordBatch, tuple[Gap, ...], tuple[RoundTrip, ...]]]:
    """Batch by batch with the gaps that ended and the round trips that came in it, none of them kept."""
    import pyarrow as pa
    from pyarrow import ipc

    with pa.OSFile(str(path), "rb") as source, ipc.open_stream(source) as stream:
        while True:
            try:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
            except (StopIteration, OSError, pa.ArrowInvalid):
                # The end, or a batch that was being written when the recorder was killed.
                return
            beside = dict(metadata or {})
            gaps = _gap_list().validate_json(beside.get(_GAPS, b"[]"))
            trips = _trip_list().validate_json(beside.get(_TRIPS, b"[]"))
            yield batch.cast(_schema()), gaps, trips


def _facts_of_stream(path: Path) -> _Facts:
    import pyarrow as pa
    from pyarrow import ipc

    with pa.OSFile(str(path), "rb") as source, ipc.open_stream(source) as stream:
        facts = _facts(stream.schema, path)
    beside = [(gaps, trips) for _, gaps, trips in _batches(path)]
    return replace(
        facts,
        gaps=(*facts.gaps, *(gap for late, _ in beside for gap in late)),
        trips=(*facts.trips, *(one for _, trips in beside for one in trips)),
    )


def _read_parquet(path: Path, wanted: Sequence[Window] | None) -> Trace:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=False, page_checksum_verification=True) as file:
        facts = _facts(file.schema_arrow, path)
        groups = [number for number in range(file.num_row_groups) if _group_touches(file, number, wanted)]
        return _trace(file.read_row_groups(groups, columns=list(_COLUMNS)), facts)


def _group_touches(file: pq.ParquetFile, number: int, wanted: Sequence[Window] | None) -> bool:
    statistics = file.metadata.row_group(number).column(1).statistics
    if statistics is None or statistics.min is None or statistics.max is None:
        return True
    return _touches(int(statistics.min), int(statistics.max), wanted)
