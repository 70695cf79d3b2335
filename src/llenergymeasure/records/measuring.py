"""What does a meter see, and how far can a number be trusted?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from llenergymeasure.records.clocks import HostClock
from llenergymeasure.records.figures import amount
from llenergymeasure.records.windows import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers: TypeAlias = NDArray[np.int64]

DomainKind: TypeAlias = Literal["gpu", "module", "cpu", "dram", "host", "wall", "part"]
Method: TypeAlias = Literal["counter", "sampled", "modelled"]
Unit: TypeAlias = Literal["J", "W", "s", "bytes", "Hz", "degC", "count"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and how far it can be trusted.

    `low` and `high` bound the 95 % interval from random error and sensor resolution, which repetition
    narrows. `systematic` bounds the error of an uncalibrated sensor or a model of power, which it does not.
    Both are in the unit of `value`. `reason` says why a part is None. NaN and infinity are refused.
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    systematic: tuple[float, float] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        numbers = [self.value, self.low, self.high, *(self.systematic or ())]
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"an estimate must be finite, got {self!r}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval needs both ends, got {self!r}")
        if self.value is not None and self.low is not None and self.high is not None:
            slack = 1e-9 * max(abs(self.value), abs(self.low), abs(self.high))
            if not self.low - slack <= self.value <= self.high + slack:
                raise ValueError(f"a value must lie in its interval, got {self!r}")
        if (self.value is None or self.low is None) and not self.reason:
            raise ValueError(f"a missing value or interval needs a reason, got {self!r}")

    @classmethod
    def missing(cls, unit: str, reason: str) -> Estimate:
        return cls(None, unit, reason=reason)

    @classmethod
    def around(
        cls,
        value: float,
        unit: str,
        half_width: float,
        systematic: tuple[float, float] | None = None,
        reason: str | None = None,
    ) -> Estimate:
        return cls(value, unit, value - half_width, value + half_width, systematic, reason)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval, or None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def times(self, factor: float, unit: str) -> Estimate:
        """Scaled by a known, positive factor."""

        def scaled(number: float | None) -> float | None:
            return None if number is None else number * factor

        ends = self.systematic and (self.systematic[0] * factor, self.systematic[1] * factor)
        return Estimate(scaled(self.value), unit, scaled(self.low), scaled(self.high), ends, self.reason)

    def __str__(self) -> str:
        """`803 ± 17 mJ/token`."""
        return amount(self)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One field of a domain. A raw count times `scale` is in `unit`.

    Unit "J" or "s" is a cumulative counter (energy, CPU time, throttled time), which starts again at 0 after
    `wrap` counts when `wrap` is given; any other is a level. `source` is the name a reading carries, such as
    `nvml.total_energy`. `step_ns` is the sensor's update period, `window_ns` what it averages over and
    `lag_ns` how far it is behind, each where it was found out before (by `llem doctor --characterise`).
    """

    name: str
    source: str
    unit: Unit
    scale: float
    wrap: int | None = None
    step_ns: int | None = None
    window_ns: int | None = None
    lag_ns: int | None = None


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Watts from CPU time, used where there is no sensor.

    `w_per_busy_vcpu` is the central figure for one vCPU-second of work and `w_per_busy_vcpu_range` what it
    may be; `w_per_byte` the same for resident memory. `name` and `citation` say where they come from.
    """

    name: str
    citation: str
    w_per_busy_vcpu: float
    w_per_busy_vcpu_range: tuple[float, float]
    w_per_byte: float
    w_per_byte_range: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CalibratedBy:
    """How surely a board's gain and offset are known: the day, the reference and its stated accuracy (95 %,
    relative), and the variances of gain and offset (W²) and their covariance (W), for a normal law of 95 %.
    """

    when: str
    against: str
    accuracy: float
    gain_variance: float
    offset_variance: float
    covariance: float


@dataclass(frozen=True, slots=True)
class Domain:
    """What a meter sees: `gpu:<uuid>`, `module:<uuid>`, `cpu:<package>`, `dram:<package>`, `host` (the whole
    machine behind its power supply or battery, or a model of its processor), `wall` (what the socket gives),
    or `part:<name>`, which is recorded and never counted.

    `resolution_j` is the smallest step of its energy counter where it has one. `systematic_gain` and
    `systematic_offset_w` bound the sensor's own error (true = gain × read + offset); None when calibrated:
    then `gain` and `offset_w` are its calibration. `flags` are codes that hold for all of its readings, such
    as `mig_shared`. `host` is the other host that it was read on, whose name and a slash its own begins with,
    and `role` what that host does. `calibrated` is what is known of a calibration beside its two figures.
    """

    name: str
    kind: DomainKind
    quantities: tuple[Quantity, ...]
    resolution_j: float | None = None
    model: PowerModel | None = None
    systematic_gain: tuple[float, float] | None = None
    systematic_offset_w: tuple[float, float] | None = None
    gain: float = 1.0
    offset_w: float = 0.0
    flags: tuple[str, ...] = ()
    host: str | None = None
    role: str | None = None
    calibrated: CalibratedBy | None = None

    @property
    def own_name(self) -> str:
        """As it is called on its own host."""
        return self.name if self.host is None else self.name.removeprefix(f"{self.host}/")


@dataclass(frozen=True, slots=True)
class Sample:
    """One field read once: the raw count, and the two clock readings around the call."""

    domain: str
    quantity: str
    t_before_ns: int
    t_after_ns: int
    raw: int
    stamp_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """All samples of one quantity, in order: int64 arrays of one length."""

    quantity: Quantity
    t_before_ns: Integers
    t_after_ns: Integers
    raw: Integers


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch in which a meter gave nothing. `domain` is None when the recorder itself was late."""

    window: Window
    reason: str
    domain: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything the recorder saw in one run; `series` is keyed by (domain name, quantity name).

    What was read on other hosts is in this host's time, as surely as `clocks` says by host.
    """

    domains: tuple[Domain, ...]
    series: Mapping[tuple[str, str], Series]
    gaps: tuple[Gap, ...] = ()
    clocks: Mapping[str, HostClock] = field(default_factory=dict)

    def domain(self, name: str) -> Domain:
        return next(domain for domain in self.domains if domain.name == name)


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """The energy of one window in one domain from one source."""

    domain: str
    source: str
    method: Method
    window: Window
    energy: Estimate
    resolution_j: float | None = None
    flags: tuple[str, ...] = ()
