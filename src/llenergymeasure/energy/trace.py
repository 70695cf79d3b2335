"""How is a trace kept on disk, and read back?

History of the schema: 1, the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc
from pydantic import TypeAdapter, ValidationError

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Domain, Gap, Series, Trace

TRACE_SCHEMA_VERSION = 1
STREAM_NAME = "power.arrow"
PARQUET_NAME = "power.parquet"

# (index of the series, t_before_ns, t_after_ns, raw)
Row: TypeAlias = tuple[int, int, int, int]

_KEY = b"llenergymeasure.trace"
_GAPS = b"llenergymeasure.gaps"
_COLUMNS = ("series", "t_before_ns", "t_after_ns", "raw")
_FIELDS = [pa.field("series", pa.int16()), *(pa.field(name, pa.int64()) for name in _COLUMNS[1:])]
_DOMAINS = TypeAdapter(tuple[Domain, ...])
_GAP_LIST = TypeAdapter(tuple[Gap, ...])


def series_keys(domains: Iterable[Domain]) -> list[tuple[str, str]]:
    """(domain, quantity) by the index that stands for it in a file."""
    return [(domain.name, quantity.name) for domain in domains for quantity in domain.quantities]


class TraceWriter:
    """Appends to an Arrow IPC stream. What was written before a SIGKILL can be read afterwards."""

    def __init__(self, path: Path, domains: Sequence[Domain]) -> None:
        self._schema = pa.schema(_FIELDS).with_metadata(_metadata(domains, ()))
        try:
            self._sink = pa.OSFile(str(path), "wb")
            self._stream = ipc.new_stream(self._sink, self._schema)
        except OSError as error:
            raise ResultError(f"the trace can't be written to {path}: {error}") from error

    def write(self, rows: Sequence[Row], gaps: Sequence[Gap]) -> None:
        """One batch; it lies in the kernel's hands when this returns. OSError when the disk is full."""
        columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, _FIELDS, strict=True)]
        batch = pa.record_batch(arrays, schema=self._schema)
        metadata = {_GAPS: _GAP_LIST.dump_json(tuple(gaps))} if gaps else None
        self._stream.write_batch(batch, custom_metadata=metadata)
        self._sink.flush()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._sink.close()


def compact(directory: Path) -> Path:
    """Turn the stream in `directory` into Parquet, aside and then renamed; the stream is removed."""
    stream, final = directory / STREAM_NAME, directory / PARQUET_NAME
    table, domains, gaps = _read_stream(stream)
    aside = directory / f".{PARQUET_NAME}.partial"
    try:
        pq.write_table(
            table.replace_schema_metadata(_metadata(domains, gaps)),
            aside,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(_COLUMNS[1:], "DELTA_BINARY_PACKED"),
        )
        os.replace(aside, final)  # noqa: PTH105  the atomic one, by its own name
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ResultError(
            f"the trace can't be written to {final}: {error}", hint=f"it is kept as {stream}"
        ) from error
    stream.unlink()
    return final


def read_trace(path: Path) -> Trace:
    """The trace in a `.parquet` file, or in a `.arrow` stream up to its last whole batch.

    ResultError for a file that is missing, no trace, cut short or of a schema that this version can't read.
    """
    try:
        table, domains, gaps = _read_stream(path) if path.suffix == ".arrow" else _read_parquet(path)
    except FileNotFoundError as error:
        raise ResultError(f"there is no trace at {path}") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise ResultError(f"{path} is no trace, or is damaged: {error}") from error
    return _trace(table, domains, gaps)


def _trace(table: pa.Table, domains: tuple[Domain, ...], gaps: tuple[Gap, ...]) -> Trace:
    index, before, after, raw = (table.column(name).to_numpy() for name in _COLUMNS)
    quantities = [quantity for domain in domains for quantity in domain.quantities]
    series = {}
    for number, (key, quantity) in enumerate(zip(series_keys(domains), quantities, strict=True)):
        rows = np.flatnonzero(index == number)
        if rows.size:
            series[key] = Series(quantity, before[rows], after[rows], raw[rows])
    return Trace(domains, series, gaps)


def _metadata(domains: Sequence[Domain], gaps: Sequence[Gap]) -> dict[bytes, bytes]:
    facts = {
        "schema": TRACE_SCHEMA_VERSION,
        "domains": _DOMAINS.dump_python(tuple(domains), mode="json"),
        "gaps": _GAP_LIST.dump_python(tuple(gaps), mode="json"),
    }
    return {_KEY: json.dumps(facts, allow_nan=False).encode()}


def _facts(schema: pa.Schema, path: Path) -> tuple[tuple[Domain, ...], tuple[Gap, ...]]:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise ResultError(f"{path} is not a trace of llem")
    try:
        facts = json.loads(text)
        if facts["schema"] != TRACE_SCHEMA_VERSION:
            raise ResultError(
                f"{path} has trace schema {facts['schema']}; this version reads {TRACE_SCHEMA_VERSION}",
                hint="pip install --upgrade llenergymeasure",
            )
        return _DOMAINS.validate_python(facts["domains"]), _GAP_LIST.validate_python(facts["gaps"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ResultError(f"{path}: the facts about its meters are damaged: {error}") from error


def _read_stream(path: Path) -> tuple[pa.Table, tuple[Domain, ...], tuple[Gap, ...]]:
    batches: list[pa.RecordBatch] = []
    late_gaps: list[Gap] = []
    with pa.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
        domains, gaps = _facts(stream.schema, path)
        while True:
            try:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
            except (StopIteration, OSError, pa.ArrowInvalid):
                # The end, or a batch that was being written when the recorder was killed.
                break
            batches.append(batch)
            late_gaps += _GAP_LIST.validate_json(metadata[_GAPS]) if metadata is not None else ()
        table = pa.Table.from_batches(batches, schema=stream.schema)
    return table, domains, (*gaps, *late_gaps)


def _read_parquet(path: Path) -> tuple[pa.Table, tuple[Domain, ...], tuple[Gap, ...]]:
    table = pq.read_table(path, memory_map=False)
    return table, *_facts(table.schema, path)
