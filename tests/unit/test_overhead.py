"""Ratios of speeds from turns, as `benchmarks.overhead` takes them."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.overhead.parent import _seconds
from benchmarks.overhead.turns import ratio, turns

S = 1_000_000_000


def test_a_drift_of_the_machine_favours_neither_way() -> None:
    order = list(turns(4))
    assert order == [True, False, False, True, True, False, False, True]
    assert sum(at for at, ours in enumerate(order) if ours) == sum(
        at for at, ours in enumerate(order) if not ours
    )


def test_a_ratio_is_that_of_speeds_with_students_interval() -> None:
    found = ratio([(1.0, 1.1), (1.0, 1.1 * 1.02), (1.0, 1.1 / 1.02)])
    half = 4.302653 * math.log(1.02) / math.sqrt(3)
    assert found.value == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1 * math.exp(-half), rel=1e-6)
    assert found.high == pytest.approx(1.1 * math.exp(half), rel=1e-6)


def test_batches_count_for_the_turn_that_holds_them_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    edges = [(0.0, 0.4), (0.4, 0.8), (0.8, 1.3), (1.3, 1.8), (1.9, 2.4)]
    sent, end = ([round(one * S) for one in column] for column in zip(*edges, strict=True))
    pq.write_table(pa.table({"t_sent_ns": sent, "t_end_ns": end}), tmp_path / "out" / "requests.parquet")
    stood = [(0, S, False), (S, 2 * S, True)]
    (pair,) = _seconds(tmp_path, stood)
    assert pair == pytest.approx((0.4, 0.5))
