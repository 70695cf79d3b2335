from __future__ import annotations

import pytest
from benchmarks.accuracy.recordings import folder, recordings, rows

from llenergymeasure.energy.sensor import characterise

PLACE = folder()
pytestmark = pytest.mark.skipif(
    PLACE is None, reason="no recordings: set LLEM_POWER_RECORDINGS to their folder"
)


def test_every_field_of_every_board_is_read_from_edge_to_edge_within_its_interval() -> None:
    found = rows()
    assert len(found) == 8
    assert [row.case for row in found if not row.met] == []


def test_only_the_averaged_field_of_the_rtx_3090_is_seen_to_average() -> None:
    assert PLACE is not None
    seen = {
        (one.name, one.field): characterise(one.series, one.edges_ns)
        for one in recordings(PLACE)
        if one.name in {"rtx3090-step", "rtx4090-step"}
    }
    kinds = {key: None if sensor is None else sensor.kind for key, sensor in seen.items()}
    assert kinds["rtx3090-step", "power_draw_average"] == "average"
    assert kinds["rtx4090-step", "power_draw"] != "average"
    assert kinds["rtx3090-step", "power_draw_instant"] != "average"
