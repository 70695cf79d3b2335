"""When is each request of a load sent, and what does a good answer have to keep?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from llenergymeasure.config.section import AboveZero, NotNegative, Positive, PositiveSeconds, Section

# What each kind of arrivals needs, and what it takes beside that.
_NEEDS = {
    "closed": (),
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate",),
    "ramp": ("rate", "end_rate", "ramp_s"),
    "trace": ("trace",),
}
_TAKES = {
    "closed": ("concurrency", "think_s"),
    "constant": ("think_s",),
    "poisson": ("think_s",),
    "gamma": ("burstiness", "think_s"),
    "ramp": ("think_s",),
    "trace": ("speed",),
}


class LoadConfig(Section):
    """A stream of requests to a server, from which passes are cut as windows."""

    arrivals: Literal["closed", "constant", "poisson", "gamma", "ramp", "trace"] = Field(
        default="closed",
        description="closed: a request is sent when an answer is complete; the others are sent when they are "
        "due, whatever the server does",
    )
    concurrency: Positive = Field(default=1, description="closed: users, with one request on its way each")
    rate: AboveZero | None = Field(
        default=None,
        description="requests per second, of conversations first turns; of a ramp those at its start",
    )
    end_rate: AboveZero | None = Field(default=None, description="ramp: requests per second at its end")
    ramp_s: PositiveSeconds | None = Field(default=None, description="ramp: how long the rate changes")
    burstiness: AboveZero = Field(
        default=1.0,
        # Gaps of less are almost all 0.
        ge=0.01,
        description="gamma: shape of the gaps between requests; 1 is poisson, less comes in bursts",
    )
    trace: Path | None = Field(
        default=None,
        description="trace: file of times and lengths, of which the first n records are used: JSON lines or "
        "CSV, of llem, Mooncake or Azure",
    )
    speed: AboveZero = Field(default=1.0, description="trace: how many times faster than recorded")
    think_s: NotNegative = Field(
        default=0.0,
        description="seconds between an answer and the user's next request, or the conversation's next turn",
    )
    finite: bool = Field(
        default=False,
        description="each pass sends its requests and waits for every answer, between two silences, "
        "rather than being a window of a running load",
    )

    @property
    def in_words(self) -> str:
        """`closed, 8 users` or `poisson, 2.5 requests/s`."""
        match self.arrivals:
            case "closed":
                return f"closed, {self.concurrency} user{'' if self.concurrency == 1 else 's'}"
            case "ramp":
                return f"ramp, {self.rate:g} to {self.end_rate:g} requests/s"
            case "trace":
                faster = "" if self.speed == 1 else f", {self.speed:g} times as fast"
                return f"trace {self.trace}{faster}"
        return f"{self.arrivals}, {self.rate:g} requests/s"

    @model_validator(mode="after")
    def _fits_arrivals(self) -> LoadConfig:
        """What the arrivals do not use would be passed over in silence."""
        needs, takes = _NEEDS[self.arrivals], _TAKES.get(self.arrivals, ())
        for name in needs:
            if getattr(self, name) is None:
                raise ValueError(f"arrivals {self.arrivals} need load.{name}")
        others = {name for one in (*_NEEDS.values(), *_TAKES.values()) for name in one} - {*needs, *takes}
        for name in sorted(others):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"load.{name} has no use with arrivals {self.arrivals}; remove it")
        return self


class SloConfig(Section):
    """Objectives that an answer has to meet to count as good; each in seconds, none when absent."""

    ttft: PositiveSeconds | None = Field(default=None, description="time to first token, s")
    tpot: PositiveSeconds | None = Field(default=None, description="time per output token after it, s")
    e2e: PositiveSeconds | None = Field(default=None, description="time to the last token, s")
