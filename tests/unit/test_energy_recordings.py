from __future__ import annotations

import statistics

import pytest
from benchmarks.accuracy.recordings import LIMITS, Recording, errors, folder, recordings

from llenergymeasure.energy.level import hold, power_between

PLACE = folder()
pytestmark = pytest.mark.skipif(
    PLACE is None, reason="no recordings: set LLEM_POWER_RECORDINGS to their folder"
)
RECORDED = [] if PLACE is None else list(recordings(PLACE))


def _id(recording: Recording) -> str:
    return f"{recording.name}-{recording.field}"


def _sds(recording: Recording, seconds: float, *, count: int) -> tuple[float, float]:
    """Scatter of llem and of sample-and-hold over random windows, own gain and offset taken out."""
    sensor = recording.sensor()
    ours = errors(
        recording, seconds, lambda w: power_between(recording.series, w, sensor).integral, count=count
    )
    held = errors(recording, seconds, lambda w: hold(recording.series, w).integral, count=count)
    return statistics.stdev(ours), statistics.stdev(held)


@pytest.mark.parametrize(
    "recording",
    [one for one in RECORDED if one.name == "rtx3090-step" and one.field == "power_draw_average"],
    ids=_id,
)
def test_the_averaged_field_of_the_rtx_3090_is_seen_to_average_and_is_inverted(recording: Recording) -> None:
    sensor = recording.sensor()
    assert sensor is not None
    assert (sensor.kind, sensor.window_ns) == ("average", 1_000_000_000)
    for seconds, limit in LIMITS.items():
        ours, held = _sds(recording, seconds, count=600)
        assert ours <= limit
        assert ours < held / 4


@pytest.mark.parametrize(
    "recording", [one for one in RECORDED if "instant" in one.field or one.name == "rtx4090-step"], ids=_id
)
def test_every_other_field_is_no_worse_than_sample_and_hold(recording: Recording) -> None:
    for seconds in LIMITS:
        ours, held = _sds(recording, seconds, count=150)
        assert ours <= 1.02 * held


@pytest.mark.parametrize("recording", [one for one in RECORDED if one.name == "rtx4090-step"], ids=_id)
def test_the_rtx_4090_is_never_taken_to_average(recording: Recording) -> None:
    sensor = recording.sensor()
    assert sensor is not None
    assert sensor.kind != "average"
    assert sensor.window_ns is None or sensor.window_ns <= 100_000_000
