"""How often is each device read, and how long must a silence be for its sensor?"""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.records import Domain, Quantity, Window

# Reads of a counter in a close look. With a call of up to a millisecond its step is then known to ± 3 ms.
_COUNTER_NS = 4_000_000
# No known power field changes faster than every 20 ms (arXiv 2312.02741).
_POWER_NS = 20_000_000
# From afar: a picture, shares of passes and a board's health need few reads; several boards share them.
_FAR_NS = 50_000_000
_FAR_SHARED_NS = 25_000_000
# A device may spend this share of its time in reads, so that a slow driver is left to the workload.
_SHARE_OF_TIME = 1 / 3
# A counter that steps faster than this is as good as a continuous one: its steps need no looking for.
_CONTINUOUS_NS = 5_000_000

# Multiples of the golden ratio, modulo 1, are far from every fraction: reads so spaced share no factor with
# the 20, 50 or 100 ms at which sensors step.
_GOLDEN = 0.6180339887498949

# Seconds of quiet power that an edge needs, and what may still come after the work (METHOD.md, silence rule).
_GPU_COUNTER_S = (0.4, 0.15)
_CONTINUOUS_S = (0.05, 0.002)
# How well a lag that was found is known.
_SLACK_S = 0.02
_LEAST_POWER_S = 0.5
# Lag and averaging window of a power field that nobody characterised (arXiv 2312.02741).
_LAG_NS = 250_000_000
_INSTANT_WINDOW_NS = 100_000_000
_AVERAGE_WINDOW_NS = 1_000_000_000


def gap_ns(domains: Sequence[Domain], *, dense: bool, devices: int) -> int:
    """From one read of these domains to the next. From afar several `devices` share what there is."""
    if dense:
        counts = any(quantity.unit == "J" for domain in domains for quantity in domain.quantities)
        return _COUNTER_NS if counts else _POWER_NS
    return max(_FAR_NS, devices * _FAR_SHARED_NS)


def rested_ns(call: Window) -> int:
    """When a device has had time enough for its workload after `call`."""
    return call.start_ns + round((call.end_ns - call.start_ns) / _SHARE_OF_TIME)


def moment_ns(after_ns: int, gap_ns: int, *, even: bool) -> int:
    """The next of the moments that are common to all devices, so that the processor wakes up once for all."""
    number = after_ns // gap_ns + 1
    uneven = 0.0 if even else number * _GOLDEN % 1 / 2
    return round((number + uneven) * gap_ns)


def steps(quantity: Quantity) -> bool:
    """Whether it counts energy in steps whose moments can be seen."""
    return quantity.unit == "J" and (quantity.step_ns is None or quantity.step_ns > _CONTINUOUS_NS)


def quiet_s(domain: Domain) -> tuple[float, float]:
    """The least seconds of a silence for this domain, and for how long after the work it may still show it.

    (0, 0) where power is modelled. Counters go before power, as they do in the energy of a window.
    """
    if domain.model is not None:
        return 0.0, 0.0
    counters = [quantity for quantity in domain.quantities if quantity.unit == "J"]
    if counters:
        if not any(map(steps, counters)):
            return _CONTINUOUS_S
        least_s, lag_s = _GPU_COUNTER_S
        known = [one.lag_ns for one in counters if one.lag_ns is not None]
        return least_s, max(known) / 1e9 + _SLACK_S if known else lag_s
    memories_s = [_memory_s(quantity) for quantity in domain.quantities if quantity.unit == "W"]
    if not memories_s:
        return 0.0, 0.0
    return max(_LEAST_POWER_S, min(memories_s)), min(memories_s)


def _memory_s(power: Quantity) -> float:
    """How far back a power field looks: its window and its lag."""
    window_ns, lag_ns = power.window_ns, power.lag_ns
    if window_ns is None:
        window_ns = _INSTANT_WINDOW_NS if "instant" in power.name else _AVERAGE_WINDOW_NS
    return (window_ns + (max(_LAG_NS, power.step_ns or 0) if lag_ns is None else lag_ns)) / 1e9
