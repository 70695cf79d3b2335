"""How are the latencies of a run's requests distributed?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llenergymeasure.exceptions import ResultError
from llenergymeasure.results.store import REQUESTS_FILE

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("kind", "finish", "output_tokens", "t_sent_ns", "t_scheduled_ns", "t_first_ns", "t_end_ns")


def distributions(runs: Sequence[Path], *, shares: int, from_due: bool = False) -> dict[str, JsonValue]:
    """Seconds at `shares` equal steps from 0 to 100 % of the answered requests of the measured passes, by
    metric, as `analysis.latency` defines them; `from_due`: since requests were due, and not sent.
    Empty without a table of them; ResultError for a damaged one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for file in [run / REQUESTS_FILE for run in runs]:
        try:
            with pq.ParquetFile(file) as table:
                tables.append(table.read(columns=list(_COLUMNS)))
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as error:
            raise ResultError(f"{file} is damaged: {error}") from error
    return _quantiles(pa.concat_tables(tables), shares, from_due=from_due) if tables else {}


def _quantiles(table: pa.Table, shares: int, *, from_due: bool) -> dict[str, JsonValue]:
    import numpy as np

    kind, finish = (np.asarray(table[name].to_pylist(), dtype=object) for name in _COLUMNS[:2])
    kept = np.flatnonzero((kind == "full") & (finish != "error"))
    tokens, sent, due, first, end = (
        np.asarray(table[name].to_numpy(), dtype=float)[kept] for name in _COLUMNS[2:]
    )
    sent = due if from_due else sent
    found: dict[str, JsonValue] = {"requests": int(kept.size)}
    for name, seconds in (
        ("ttft", (first - sent) / 1e9),
        ("tpot", np.where(tokens > 1, (end - first) / 1e9 / np.maximum(tokens - 1, 1), np.nan)),
        ("e2e", (end - sent) / 1e9),
    ):
        known = seconds[np.isfinite(seconds)]
        if known.size > 1:
            at = np.linspace(0, 1, min(shares, known.size))
            found[name] = [float(f"{one:.5g}") for one in np.quantile(known, at)]
    return found
