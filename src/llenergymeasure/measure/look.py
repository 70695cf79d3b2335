"""What does each domain draw now, and in what state is it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from llenergymeasure.energy import Meter
from llenergymeasure.energy.joules.sources import method_of
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Method, Quantity, Sample

# Power fields, best first.
_POWER = ("power_instant", "power_usage", "power_average")
# A counter steps every 20 to 100 ms: over less time than this it says little of power.
_LEAST_NS = 900_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """One domain at one time; what it does not offer is None. `joules` are those since the first look.

    `slowed_by_heat` and `held_by_limit` are parts of the time since the look before.
    """

    domain: str
    source: str
    method: Method
    watts: float | None
    joules: float | None
    temperature_c: float | None
    sm_clock_hz: float | None
    slowed_by_heat: float | None
    held_by_limit: float | None
    reason: str | None = None


@dataclass(slots=True)
class _Seen:
    """What is needed of all reads of one quantity: the last one, and the totals of the last second."""

    quantity: Quantity
    last: Sample
    total: float = 0.0
    points: list[tuple[int, float]] = field(default_factory=list)

    @property
    def value(self) -> float:
        return self.last.raw * self.quantity.scale

    def add(self, sample: Sample) -> None:
        step = sample.raw - self.last.raw
        if step < 0 and self.quantity.wrap is not None and step + self.quantity.wrap < self.quantity.wrap / 2:
            step += self.quantity.wrap
        # Any other fall of a counter is a reset, and counts nothing.
        self.total += max(0, step) * self.quantity.scale
        self.last = sample
        self.points.append((sample.t_after_ns, self.total))
        while len(self.points) > 2 and self.points[1][0] <= sample.t_after_ns - _LEAST_NS:
            del self.points[0]

    @property
    def rate(self) -> float | None:
        """Per second, over the last second or the time between two looks."""
        (first_ns, first), (last_ns, last) = self.points[0], self.points[-1]
        return (last - first) / (last_ns - first_ns) * 1e9 if last_ns > first_ns else None


def looks(meters: Sequence[Meter], *, clock: Clock, every_s: float) -> Iterator[tuple[Look, ...]]:
    """A look at every domain each `every_s` seconds, for as long as somebody asks.

    EnergyError where a meter can't be opened. A domain that gives nothing says why in its place.
    """
    with ExitStack() as stack:
        domains: list[Domain] = []
        for meter in meters:
            stack.enter_context(meter)
            domains += meter.domains()
        seen: dict[tuple[str, str], _Seen] = {}
        due_ns = clock.monotonic_ns()
        while True:
            reasons = _read(meters, domains, seen)
            yield tuple(_look(domain, seen, reasons.get(domain.name)) for domain in domains)
            due_ns += round(every_s * 1e9)
            clock.sleep(max(0.0, (due_ns - clock.monotonic_ns()) / 1e9))


class PowerNow:
    """Watts of all that is recorded together, from what a recorder has read `latest`; the measured domains,
    where there are any, without a module that holds a GPU that is one of them.
    """

    def __init__(self, domains: Sequence[Domain], latest: Mapping[tuple[str, str], Sample]) -> None:
        measured = [domain for domain in domains if domain.model is None and domain.kind != "module"]
        self._domains = measured or list(domains)
        self._latest, self._seen = latest, dict[tuple[str, str], _Seen]()

    def __call__(self) -> float | None:
        """None where one of them is not known yet."""
        latest = list(self._latest.items())
        for domain in self._domains:
            for quantity in domain.quantities:
                for sample in (sample for key, sample in latest if key == (domain.name, quantity.name)):
                    seen = self._seen.setdefault((domain.name, quantity.name), _Seen(quantity, sample))
                    if not seen.points or sample.t_after_ns > seen.last.t_after_ns:
                        seen.add(sample)
        watts = [_look(domain, self._seen, None).watts for domain in self._domains]
        known = [each for each in watts if each is not None]
        return sum(known) if known and len(known) == len(watts) else None


def _read(
    meters: Sequence[Meter], domains: Sequence[Domain], seen: dict[tuple[str, str], _Seen]
) -> dict[str, str]:
    """Read everything once; returns why domains gave nothing."""
    quantities = {(domain.name, one.name): one for domain in domains for one in domain.quantities}
    heard, reasons = set(), []
    for meter in meters:
        try:
            samples = meter.sample()
        except EnergyError as error:
            reasons.append(error.message)
            continue
        for sample in samples:
            key = (sample.domain, sample.quantity)
            heard.add(sample.domain)
            if key in seen:
                seen[key].add(sample)
            else:
                seen[key] = _Seen(quantities[key], sample, points=[(sample.t_after_ns, 0.0)])
    why = "; ".join(reasons) or "the meter gave no value"
    return {domain.name: why for domain in domains if domain.name not in heard}


def _look(domain: Domain, seen: dict[tuple[str, str], _Seen], reason: str | None) -> Look:
    mine = {name: one for (of, name), one in seen.items() if of == domain.name}
    watts, joules, source, method = _power(domain, mine)

    def level(name: str) -> float | None:
        return mine[name].value if name in mine else None

    def share(name: str) -> float | None:
        return mine[name].rate if name in mine else None

    return Look(
        domain.name,
        source,
        method,
        None if reason else watts,
        joules,
        level("temperature"),
        level("sm_clock"),
        share("throttle_thermal"),
        share("throttle_power"),
        reason,
    )


def _power(domain: Domain, mine: dict[str, _Seen]) -> tuple[float | None, float | None, str, Method]:
    """Watts and joules with their source: a field shows power at once, a counter over the last second."""
    if domain.model is not None:
        busy, resident = mine.get("cpu_time"), mine.get("resident")
        source = domain.quantities[0].source
        if busy is None or resident is None:
            return None, None, source, "modelled"
        if busy.rate is None:
            return None, None, source, "modelled"
        memory_w = resident.value * domain.model.w_per_byte
        return busy.rate * domain.model.w_per_busy_vcpu + memory_w, None, source, "modelled"
    counter = next(
        (mine[one.name] for one in domain.quantities if one.unit == "J" and one.name in mine), None
    )
    field_ = next((mine[name] for name in _POWER if name in mine), None)
    best = counter or field_
    if best is None:
        return None, None, domain.quantities[0].source if domain.quantities else "", "sampled"
    watts = field_.value if field_ is not None else best.rate
    joules = None if counter is None else counter.total
    return watts, joules, best.quantity.source, method_of(best.quantity)
