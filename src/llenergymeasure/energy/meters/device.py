"""What is the same in every meter: how devices are opened, closed, and read one by one?"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Self

from llenergymeasure.energy import Part
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity, Sample


@dataclass(frozen=True, slots=True)
class Question:
    """A quantity and how to read it: a call that may raise the driver's error, or give None for no number."""

    domain: str
    quantity: Quantity
    ask: Callable[[], int | None]

    def sample(self, clock: Clock) -> Sample | None:
        before_ns = clock.monotonic_ns()
        raw = self.ask()
        if raw is None:
            return None
        return Sample(self.domain, self.quantity.name, before_ns, clock.monotonic_ns(), raw)


class Device:
    """A `Part` whose questions are asked one after the other.

    `errors` are those with which its driver refuses an answer; `silent` says what it means when it refuses
    all of them. `reasons` says of each domain whose last question got none why not.
    """

    period_s: float | None = None

    def __init__(
        self, questions: Sequence[Question], *, errors: tuple[type[Exception], ...], silent: str, clock: Clock
    ) -> None:
        self.questions = tuple(questions)
        self.driver_cpu_ns = 0
        self.reasons: dict[str, str] = {}
        self._errors = errors
        self._silent = silent
        self._clock = clock

    @property
    def quantities(self) -> Sequence[tuple[str, Quantity]]:
        """(domain, quantity) of all that it gives."""
        return [(question.domain, question.quantity) for question in self.questions]

    @property
    def domains(self) -> Sequence[str]:
        return tuple(dict.fromkeys(domain for domain, _ in self.quantities))

    def sample(self) -> Sequence[Sample]:
        """All that it answers. EnergyError with the driver's reason where that is nothing."""
        cpu_ns = time.thread_time_ns()
        samples, failure = self._read()
        self.driver_cpu_ns += time.thread_time_ns() - cpu_ns
        if not samples:
            raise EnergyError(f"{self._silent}: {failure or 'no number'}")
        return samples

    def _read(self) -> tuple[list[Sample], Exception | None]:
        """What can be read, and the last reason why something could not."""
        return self._asked()

    def _asked(self) -> tuple[list[Sample], Exception | None]:
        samples = []
        failure: Exception | None = None
        for question in self.questions:
            try:
                sample = question.sample(self._clock)
            except self._errors as error:
                failure = error
                self.reasons[question.domain] = str(error)
                continue
            if sample is not None:
                samples.append(sample)
        return samples, failure


class DeviceMeter(ABC):
    """A meter of devices, of which one that is lost never takes the others away.

    `notes` says what could not be determined, such as which boards CUDA's numbers mean; `unread` which
    domains of those that were asked for can't be read, and why.
    """

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self.unread: dict[str, str] = {}
        self._stack = ExitStack()
        self._parts: tuple[Part, ...] = ()
        self._domains: tuple[Domain, ...] = ()

    @abstractmethod
    def _open(self, stack: ExitStack) -> tuple[Sequence[Part], Sequence[Domain]]:
        """Find the devices and their domains, with what closes them on `stack`. EnergyError says why not."""

    def why_unavailable(self) -> str | None:
        try:
            with self:
                return None
        except EnergyError as error:
            return f"{error.message}; {error.hint}" if error.hint else error.message

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            parts, domains = self._open(stack)
            self._parts, self._domains = tuple(parts), tuple(domains)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._parts, self._domains = (), ()
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def parts(self) -> Sequence[Part]:
        return self._parts

    def sample(self) -> Sequence[Sample]:
        samples: list[Sample] = []
        for part in self._parts:
            # The domains of a lost device are left out; by its part the recorder hears why.
            with suppress(EnergyError):
                samples += part.sample()
        return samples
