"""When is each request of a load sent?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from math import sqrt

from llenergymeasure.config.load import LoadConfig
from llenergymeasure.records import Request
from llenergymeasure.workload.traces import read_trace


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a load, and when it is to be sent.

    `due_s` counts from the start of the load. None: once a user of a closed loop is free, or where `after` is
    set `think_s` after the answer to that arrival, which came earlier in the load. `think_s` of an arrival
    without `after` is how long its user waits after an answer before it.
    """

    number: int
    request: Request
    due_s: float | None
    after: int | None = None
    think_s: float = 0.0


def arrivals(load: LoadConfig, requests: Sequence[Request], *, seed: int) -> Iterator[Arrival]:
    """The requests in turn, over and over; of a trace, which has a time for each, once.

    The turns of a conversation follow one another, each `after` the one before it: a user of a closed loop
    who takes the first one takes them all, and due times are those of first turns. The same seed gives the
    same times on every machine. ValueError where there are no requests.
    """
    if not requests:
        raise ValueError("a load needs requests")
    if load.arrivals == "trace":
        assert load.trace is not None, "arrivals of a trace were refused without one"
        trace = read_trace(load.trace, most=len(requests))
        for number, (record, request) in enumerate(zip(trace.records, requests, strict=True)):
            yield Arrival(number, request, record.at_s / load.speed)
        return
    times = _times(load, seed)
    for number in count():
        request = requests[number % len(requests)]
        is_later = request.turn > 1
        yield Arrival(
            number,
            request,
            due_s=None if is_later else next(times),
            after=number - 1 if is_later else None,
            think_s=load.think_s if is_later or load.arrivals == "closed" else 0.0,
        )


def _times(load: LoadConfig, seed: int) -> Iterator[float | None]:
    """When the first, second, … arrival is due, in seconds."""
    if load.arrivals == "closed":
        while True:
            yield None
    rate = load.rate
    assert rate is not None, "open arrivals were refused without a rate"
    if load.arrivals == "constant":
        yield from (number / rate for number in count())
    elif load.arrivals == "ramp":
        assert load.end_rate is not None, "a ramp was refused without an end"
        assert load.ramp_s is not None, "a ramp was refused without a duration"
        for number in count():
            yield ramp_time(number, rate, load.end_rate, ramp_s=load.ramp_s)
    else:
        import numpy as np

        # Gaps whose mean is 1/rate and whose coefficient of variation is 1/√shape.
        shape = load.burstiness if load.arrivals == "gamma" else 1.0
        source = np.random.Generator(np.random.PCG64(seed))
        yield from accumulate(float(source.standard_gamma(shape)) / shape / rate for _ in count())


def ramp_time(integral: float, rate: float, end_rate: float, *, ramp_s: float) -> float:
    """When the integral of a rate that goes linearly from `rate` to `end_rate`, and stays there, has that
    value: the root of rate·t + (end_rate − rate)/(2·ramp_s)·t², in the form that loses no digits.
    """
    whole = (rate + end_rate) / 2 * ramp_s
    if integral > whole:
        return ramp_s + (integral - whole) / end_rate
    slope = (end_rate - rate) / ramp_s
    # Rounding may take the root of a ramp that falls to almost nothing below 0.
    return 2 * integral / (rate + sqrt(max(0.0, rate * rate + 2 * slope * integral)))
