from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.recording.trace import (
    PARQUET_NAME,
    STREAM_NAME,
    Row,
    TraceWriter,
    compact,
    read_trace,
    series_keys,
)
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Domain, Gap, PowerModel, Quantity, Trace, Window

S = 1_000_000_000
GPU = Domain(
    "gpu:GPU-1",
    "gpu",
    (
        Quantity("energy", "nvml.total_energy", "J", 1e-3, step_ns=100_000_000),
        Quantity("power_instant", "nvml.power.instant", "W", 1e-3),
    ),
    resolution_j=1e-3,
    systematic_gain=(0.9, 1.1),
    systematic_offset_w=(-16.1, 24.2),
)
HOST = Domain(
    "host",
    "host",
    (Quantity("cpu_time", "cpu-time-model", "s", 1e-9, wrap=2**62),),
    model=PowerModel("m", "c", 4.0, (3.0, 8.0), 1e-10, (5e-11, 2e-10)),
)
GAP = Gap(Window(5, 9), "it did not answer", "host")


def _rows(count: int) -> list[Row]:
    draw = np.random.default_rng(1)
    rows: list[Row] = []
    joules = 0.0
    for number in range(count):
        t_ns = 3 * S + number * 17_000_000 + int(draw.integers(0, 900_000))
        joules += float(draw.uniform(0, 8))
        rows += [
            (0, t_ns, t_ns + 40_000, int(1000 * joules)),
            (1, t_ns, t_ns + 40_000, 300_000),
            (2, t_ns, t_ns, number),
        ]
    return rows


def _written(directory: Path, rows: list[Row], gaps: tuple[Gap, ...] = ()) -> Path:
    path = directory / STREAM_NAME
    writer = TraceWriter(path, (GPU, HOST))
    for start in range(0, len(rows), 300):
        writer.write(rows[start : start + 300], ())
    writer.write([], gaps)
    writer.close()
    return path


def _same(first: Trace, second: Trace) -> bool:
    return (
        first.domains == second.domains
        and first.gaps == second.gaps
        and first.series.keys() == second.series.keys()
        and all(
            np.array_equal(one.raw, other.raw)
            and np.array_equal(one.t_before_ns, other.t_before_ns)
            and np.array_equal(one.t_after_ns, other.t_after_ns)
            and one.quantity == other.quantity
            for one, other in ((first.series[key], second.series[key]) for key in first.series)
        )
    )


def test_a_trace_survives_stream_and_parquet_bit_by_bit(tmp_path: Path) -> None:
    stream = _written(tmp_path, _rows(900), (GAP,))
    before = read_trace(stream)
    after = read_trace(compact(tmp_path))
    assert _same(before, after)
    assert (after.domains, after.gaps) == ((GPU, HOST), (GAP,))
    window = Window(5 * S, 15 * S)
    assert window_energy(before, GPU.name, window) == window_energy(after, GPU.name, window)
    assert [path.name for path in tmp_path.iterdir()] == [PARQUET_NAME]


INT64 = st.integers(-(2**63), 2**63 - 1)
READS = st.tuples(st.integers(0, 2), INT64, INT64, INT64).map(
    lambda row: (row[0], min(row[1], row[2]), max(row[1], row[2]), row[3])
)


@settings(max_examples=25, deadline=None)
@given(st.lists(READS, max_size=40).map(lambda rows: sorted(rows, key=lambda row: row[1])))
def test_any_rows_come_back_in_their_order(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    directory = tmp_path_factory.mktemp("trace")
    _written(directory, rows)
    trace = read_trace(compact(directory))
    for number, key in enumerate(series_keys((GPU, HOST))):
        expected = [row[1:] for row in rows if row[0] == number]
        series = trace.series.get(key)
        read = (
            []
            if series is None
            else list(zip(series.t_before_ns, series.t_after_ns, series.raw, strict=True))
        )
        assert read == expected


def test_a_stream_that_was_cut_off_is_read_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    stream = _written(tmp_path, _rows(900))
    whole = read_trace(stream).series[GPU.name, "energy"].raw
    data = stream.read_bytes()
    for kept in range(len(data) - 1, len(data) // 2, -1013):
        stream.write_bytes(data[:kept])
        cut = read_trace(stream).series[GPU.name, "energy"].raw
        assert cut.size % 100 == 0
        assert np.array_equal(cut, whole[: cut.size])


@pytest.mark.parametrize("name", [STREAM_NAME, PARQUET_NAME])
def test_what_is_no_trace_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ResultError, match="there is not a trace"):
        read_trace(path)
    for content in (b"", b"PAR1", b"nonsense" * 100):
        path.write_bytes(content)
        with pytest.raises(ResultError, match="not a trace, or is damaged"):
            read_trace(path)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    _written(tmp_path, _rows(300))
    path = compact(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ResultError, match="damaged"):
        read_trace(path)


def test_a_newer_schema_and_foreign_parquet_are_refused(tmp_path: Path) -> None:
    _written(tmp_path, _rows(3))
    path = compact(tmp_path)
    table = pq.read_table(path)
    key = b"llenergymeasure.trace"
    newer = {key: table.schema.metadata[key].replace(b'"schema": 1', b'"schema": 99')}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(ResultError, match="trace schema 99") as caught:
        read_trace(path)
    assert caught.value.hint is not None
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ResultError, match="not a trace of llem"):
        read_trace(path)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_a_scale_that_is_no_finite_number_is_refused(tmp_path: Path, number: bytes) -> None:
    _written(tmp_path, _rows(3))
    path = compact(tmp_path)
    table = pq.read_table(path)
    key = b"llenergymeasure.trace"
    facts = table.schema.metadata[key].replace(b'"scale": 0.001', b'"scale": ' + number)
    pq.write_table(table.replace_schema_metadata({key: facts}), path)
    with pytest.raises(ResultError, match=r"power\.parquet: .*not a finite number"):
        read_trace(path)


def test_rows_that_run_backwards_in_time_are_refused(tmp_path: Path) -> None:
    rows = _rows(20)
    _written(tmp_path, [*rows[30:], *rows[:30]])
    with pytest.raises(ResultError, match=r"power\.parquet is damaged: gpu:GPU-1, energy: .*backwards"):
        read_trace(compact(tmp_path))


def test_a_read_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    stream = _written(tmp_path, [(1, 10, 12, 5), (1, 20, 19, 5)])
    with pytest.raises(ResultError, match="power_instant: a read ends before it begins"):
        read_trace(stream)


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="nowhere"):
        TraceWriter(tmp_path / "nowhere" / STREAM_NAME, (GPU,))


def test_a_parquet_with_an_empty_cell_or_fractions_is_damaged(tmp_path: Path) -> None:
    whole = compact(_written(tmp_path, _rows(50)).parent)
    table = pq.read_table(whole)
    at = table.schema.get_field_index("raw")
    for raw in (pa.nulls(table.num_rows, pa.int64()), pa.array([float("nan")] * table.num_rows)):
        pq.write_table(table.set_column(at, "raw", raw), whole)
        with pytest.raises(ResultError, match="is damaged"):
            read_trace(whole)
