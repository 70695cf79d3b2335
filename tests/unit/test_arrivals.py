"""Requests of a load are due when their process says: mean, scatter, distribution, inverse and order."""

import json
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.config.load import LoadConfig
from llenergymeasure.records import Request
from llenergymeasure.workload.arrivals import Arrival, arrivals, ramp_time

COUNT = 20_000
# Kolmogorov and Smirnov: what the largest distance exceeds in one of a thousand samples.
LARGEST_DISTANCE = 1.95
POISSON_42 = [0.24042086039659946, 0.4740398259790448, 0.7125159259664703, 0.7404953549516287]
GAMMA_42 = [0.16090002922630262, 0.4169586227907649, 0.4187324973617952, 0.5698914666543909]


def asked(*turns: int) -> list[Request]:
    return [
        Request(index, (index,), 8, exact=True, turn=turn) for index, turn in enumerate(turns or (1,) * 3)
    ]


def sent(
    load: LoadConfig, count: int, requests: Sequence[Request] | None = None, seed: int = 1
) -> list[Arrival]:
    return list(islice(arrivals(load, requests or asked(), seed=seed), count))


def due(load: LoadConfig, count: int = COUNT, seed: int = 1) -> list[float]:
    times = [one.due_s for one in sent(load, count, seed=seed)]
    assert None not in times
    return [time for time in times if time is not None]


def gaps(load: LoadConfig, seed: int = 1) -> Any:
    return np.diff([0.0, *due(load, seed=seed)])


def distance(values: Any, cumulative: Callable[[float], float]) -> float:
    """Of Kolmogorov and Smirnov, times the root of the count."""
    expected = np.array([cumulative(value) for value in np.sort(values)])
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.max(steps[1:] - expected), np.max(expected - steps[:-1])) * sqrt(len(values)))


class TestClosed:
    def test_requests_go_round_in_turn_and_are_due_when_a_user_is_free(self) -> None:
        seen = sent(LoadConfig(concurrency=4, think_s=1.5), 7)
        assert [one.number for one in seen] == [0, 1, 2, 3, 4, 5, 6]
        assert [one.request.index for one in seen] == [0, 1, 2, 0, 1, 2, 0]
        assert {(one.due_s, one.after, one.think_s) for one in seen} == {(None, None, 1.5)}

    def test_a_load_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs requests"):
            next(arrivals(LoadConfig(), [], seed=1))


class TestOpen:
    def test_constant_arrivals_do_not_drift(self) -> None:
        times = due(LoadConfig(arrivals="constant", rate=3))
        assert times[0] == 0
        assert times[15_000] == 5_000

    @pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
    def test_the_gaps_of_poisson_arrivals_are_exponential(self, seed: int) -> None:
        found = gaps(LoadConfig(arrivals="poisson", rate=40), seed)
        assert np.mean(found) == pytest.approx(1 / 40, rel=4 / sqrt(COUNT))
        assert distance(found, lambda gap: 1 - exp(-40 * gap)) < LARGEST_DISTANCE

    def test_poisson_arrivals_within_a_second_are_as_many_as_their_variance_says(self) -> None:
        counts = np.bincount(np.array(due(LoadConfig(arrivals="poisson", rate=10))).astype(int))[:-1]
        # Of n counts of variance v the estimate of v scatters by about v·√(2/n).
        assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=4 * sqrt(2 / len(counts)))

    @pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
    def test_gamma_arrivals_keep_the_rate_and_scatter_by_their_shape(self, shape: float) -> None:
        found = gaps(LoadConfig(arrivals="gamma", rate=20, burstiness=shape))
        assert np.mean(found) == pytest.approx(1 / 20, rel=4 / sqrt(shape * COUNT))
        # Of a gamma distribution; its estimate scatters with the kurtosis, which is 6/shape.
        assert np.std(found) / np.mean(found) == pytest.approx(1 / sqrt(shape), rel=0.05)

    def test_the_gaps_of_gamma_arrivals_of_shape_2_are_sums_of_two_exponential_ones(self) -> None:
        found = gaps(LoadConfig(arrivals="gamma", rate=5, burstiness=2))
        assert distance(found, lambda gap: 1 - exp(-10 * gap) * (1 + 10 * gap)) < LARGEST_DISTANCE

    def test_gamma_arrivals_of_shape_1_are_poisson(self) -> None:
        bursty = LoadConfig(arrivals="gamma", rate=5, burstiness=1)
        assert due(bursty, 50) == due(LoadConfig(arrivals="poisson", rate=5), 50)

    def test_a_seed_gives_the_times_that_it_gave_on_another_machine(self) -> None:
        load = LoadConfig(arrivals="poisson", rate=10)
        assert due(load, 4, seed=42) == pytest.approx(POISSON_42, rel=1e-12)
        assert due(load, 4, seed=43) != pytest.approx(POISSON_42, rel=1e-3)
        bursty = LoadConfig(arrivals="gamma", rate=10, burstiness=0.5)
        assert due(bursty, 4, seed=42) == pytest.approx(GAMMA_42, rel=1e-12)


class TestRamp:
    def test_a_rate_from_1_to_3_in_10_s_sends_20_and_then_3_a_second(self) -> None:
        times = due(LoadConfig(arrivals="ramp", rate=1, end_rate=3, ramp_s=10), 30)
        # t + t²/10 is 2.5 at t = 2.0711 (the root of t² + 10·t − 25), 20 at 10.
        assert times[0] == 0
        assert times[20] == pytest.approx(10)
        assert times[23] == pytest.approx(11)
        assert ramp_time(2.5, 1, 3, ramp_s=10) == pytest.approx(5 * (sqrt(2) - 1))

    def test_a_ramp_between_equal_rates_is_constant(self) -> None:
        assert due(LoadConfig(arrivals="ramp", rate=4, end_rate=4, ramp_s=3), 40) == pytest.approx(
            due(LoadConfig(arrivals="constant", rate=4), 40)
        )

    @given(
        rate=st.floats(1e-3, 1e4),
        end_rate=st.floats(1e-3, 1e4),
        ramp_s=st.floats(1e-2, 1e5),
        share=st.floats(0, 2),
    )
    def test_times_are_the_inverse_of_the_integral_of_the_rate(
        self, rate: float, end_rate: float, ramp_s: float, share: float
    ) -> None:
        integral = share * (rate + end_rate) / 2 * ramp_s
        time = ramp_time(integral, rate, end_rate, ramp_s=ramp_s)
        inside = min(time, ramp_s)
        back = rate * inside + (end_rate - rate) / (2 * ramp_s) * inside**2 + end_rate * (time - inside)
        assert back == pytest.approx(integral, rel=1e-6, abs=1e-9)


class TestConversations:
    # Two turns, one alone, three.
    TURNS = (1, 2, 1, 1, 2, 3)

    @pytest.mark.parametrize(
        "load", [LoadConfig(think_s=2), LoadConfig(arrivals="poisson", rate=5, think_s=2)]
    )
    def test_each_turn_waits_for_the_one_before_it_in_every_round(self, load: LoadConfig) -> None:
        seen = sent(load, 18, asked(*self.TURNS))
        assert [one.after for one in seen[6:12]] == [None, 6, None, None, 9, 10]
        later = [one for one in seen if one.after is not None]
        assert all(one.due_s is None and one.think_s == 2 for one in later)
        for one in later:
            assert one.after is not None
            assert seen[one.after].request.index == one.request.index - 1

    def test_only_first_turns_take_a_time_of_an_open_load(self) -> None:
        alone = due(LoadConfig(arrivals="poisson", rate=5), 9)
        seen = sent(LoadConfig(arrivals="poisson", rate=5, think_s=2), 18, asked(*self.TURNS))
        first = [one for one in seen if one.after is None]
        assert [one.due_s for one in first] == alone
        assert {one.think_s for one in first} == {0.0}


@given(
    kind=st.sampled_from(["constant", "poisson", "gamma", "ramp"]),
    rate=st.floats(1e-2, 1e4),
    seed=st.integers(0, 2**32 - 1),
)
def test_due_times_never_go_back_and_repeat_with_their_seed(kind: Any, rate: float, seed: int) -> None:
    more = {"end_rate": 3.0, "ramp_s": 2.0} if kind == "ramp" else {}
    load = LoadConfig(arrivals=kind, rate=rate, **more)
    times = due(load, 50, seed)
    assert all(0 <= before <= after for before, after in pairwise(times))
    assert times == due(load, 50, seed)


def test_a_trace_is_sent_once_at_its_times_by_the_speed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps({"at_s": at_s, "input_tokens": 4, "output_tokens": 2}) + "\n" for at_s in (10, 10, 13)
        )
    )
    load = LoadConfig(arrivals="trace", trace=path, speed=2)
    seen = list(arrivals(load, asked(), seed=1))
    assert [(one.number, one.request.index, one.due_s) for one in seen] == [(0, 0, 0), (1, 1, 0), (2, 2, 1.5)]
    assert [one.due_s for one in arrivals(load, asked(1, 1), seed=1)] == [0, 0]
