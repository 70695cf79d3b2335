"""What did one run cost: which domains count, and how many joules went into each of its blocks and passes?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from llenergymeasure.analysis.estimates import total
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.quiet import idle_power
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.sources import SHORTEST_S
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.records import (
    Block,
    BlockKind,
    Domain,
    Estimate,
    Measurement,
    Pass,
    SessionFacts,
    Trace,
    Window,
)

NO_SOURCE = "no meter on this machine reads energy and no model of power was allowed"


@dataclass(frozen=True, slots=True)
class BlockJoules:
    """What each domain that counts spent in one block."""

    block: Block
    spent: Mapping[str, Spent]

    @property
    def shares(self) -> list[float] | None:
        """Joules of each pass over all domains; None where one of them is unknown."""
        parts = [one.shares for one in self.spent.values()]
        if not parts or any(one.joules is None for one in self.spent.values()):
            return None
        return [math.fsum(each) for each in zip(*parts, strict=True)]

    @property
    def ends_apart(self) -> float:
        """By how much the first and the last pass may seem to differ because of where their shares end,
        relative to a pass: a lag that is not known moves all inner edges alike, in every run.
        """
        halves = [one.share_half_widths for one in self.spent.values()]
        shares = self.shares
        if len(self.block.passes) < 2 or not shares or not all(halves) or math.fsum(shares) <= 0:
            return 0.0
        both = math.hypot(*(one[0] for one in halves)) + math.hypot(*(one[-1] for one in halves))
        return both / (math.fsum(shares) / len(shares))

    @property
    def joules(self) -> float | None:
        known = [one.joules for one in self.spent.values() if one.joules is not None]
        return math.fsum(known) if known and len(known) == len(self.spent) else None


@dataclass(frozen=True, slots=True)
class RunEnergy:
    """All that one run's trace says of its joules, computed once. `why_none` is why nothing counts, `lacks`
    what would count if it could be read: the domain's name, and why it can't.
    """

    measurement: Measurement
    domains: tuple[Domain, ...]
    lacks: Mapping[str, str]
    blocks: tuple[BlockJoules, ...]
    bare: Estimate
    loaded: Estimate
    after: Estimate
    why_none: str

    def of(self, kind: BlockKind) -> tuple[BlockJoules, ...]:
        return tuple(one for one in self.blocks if one.block.kind == kind)

    def spent(self, kind: BlockKind) -> list[Spent]:
        """What each domain spent in each block of that kind."""
        return [part for block in self.of(kind) for part in block.spent.values()]

    @property
    def place(self) -> str:
        """Whose sensors were read: the host, and the GPUs that were used."""
        return " ".join((self.measurement.environment.hostname, *sorted(self.measurement.facts.gpu_uuids)))

    @property
    def ends_apart(self) -> float:
        return max((block.ends_apart for block in self.of("full")), default=0.0)

    @property
    def costs(self) -> list[float]:
        """Joules per output token of each full pass, or seconds where no energy is known."""
        return _per_token(self.shares, self.measurement.passes)

    @property
    def joules(self) -> float | None:
        """Of all full passes."""
        return _sum([one.joules for one in self.of("full")])

    @property
    def shares(self) -> list[float] | None:
        """Of each full pass, in order."""
        parts = [one.shares for one in self.of("full")]
        known = [part for part in parts if part is not None]
        return [share for part in known for share in part] if known and len(known) == len(parts) else None

    @property
    def cost(self) -> float | None:
        """What the rule over repeats looks at: joules per output token of the whole run, or seconds where no
        energy can be known; None where nothing was produced.
        """
        passes = self.measurement.passes
        tokens = sum(one.output_tokens for one in passes)
        spent = self.joules
        if spent is None:
            spent = sum(one.window.duration_s for one in passes)
        return spent / tokens if tokens else None

    @property
    def reasons(self) -> list[str]:
        """Why joules are missing, each reason once."""
        found = [one.reason for block in self.blocks for one in block.spent.values() if one.joules is None]
        return list(dict.fromkeys(reason for reason in found if reason))


def alike(found: Sequence[RunEnergy]) -> Sequence[RunEnergy]:
    """Of runs whose figures are put together: what one of them lacks is left out of all."""
    names = [{domain.name for domain in one.domains} for one in found]
    partly = set[str].union(*names) - set[str].intersection(*names)
    # Runs on different GPUs are no such case.
    if not partly or any(partly & _used(one.measurement) for one in found):
        return found
    known = {name: why for one in found for name, why in one.lacks.items()}
    gone = {name: known.get(name, "it was not read in every run") for name in sorted(partly)}
    return [_energy_without(run.measurement, {**gone, **run.lacks}) for run in found]


def _used(measurement: Measurement) -> set[str]:
    """The domains that the engine's GPUs are or are part of."""
    used = {f"{kind}:{uuid}" for uuid in measurement.facts.gpu_uuids for kind in ("gpu", "module")}
    return used | {one.name for one in measurement.trace.domains if one.host and one.own_name in used}


def of_boundary(one: RunEnergy, boundary: str) -> RunEnergy:
    """The same run within another boundary than that which was asked for."""
    seen = one.measurement
    domains = counted_domains(seen.trace.domains, seen.config, seen.facts, boundary=boundary)
    if {domain.name for domain in domains} - one.lacks.keys() == {domain.name for domain in one.domains}:
        return one
    return _energy_without(seen, one.lacks, boundary)


def run_energy(measurement: Measurement) -> RunEnergy:
    """Without the domains that gave nothing, where others that count did."""
    whole = _energy_without(measurement, _unread(measurement))
    lost = _lost(whole)
    return _energy_without(measurement, {**whole.lacks, **lost}) if lost else whole


def _unread(measurement: Measurement) -> Mapping[str, str]:
    """What was asked for and could not be read from the start. By `auto` GPUs that the engine does not use
    were not asked for.
    """
    is_asked = measurement.config.energy.gpus != "auto"
    return {name: why for name, why in measurement.unread.items() if is_asked or not name.startswith("gpu:")}


def _lost(whole: RunEnergy) -> Mapping[str, str]:
    """Domains whose sensor failed in the passes, if any other has the energy of all of them.

    Not the GPUs that did the work: a sum without them is not the energy of the run.
    """
    spent = {domain.name: [one.spent[domain.name] for one in whole.blocks] for domain in whole.domains}
    failed = {
        name: next((one.reason for one in parts if one.reason), "its counter did not change")
        for name, parts in spent.items()
        if any(one.joules is None or "sensor_stuck" in one.flags for one in parts)
    }
    short = any(one.block.window.duration_s < SHORTEST_S for one in whole.blocks)
    if short or len(failed) == len(spent):
        return {}
    return {name: why for name, why in failed.items() if name not in _used(whole.measurement)}


def _energy_without(
    measurement: Measurement, lacks: Mapping[str, str], boundary: str | None = None
) -> RunEnergy:
    trace, idle, facts = measurement.trace, measurement.idle, measurement.facts
    domains = tuple(
        domain
        for domain in counted_domains(trace.domains, measurement.config, facts, boundary=boundary)
        if domain.name not in lacks
    )
    why_none = why_no_source(measurement, domains)

    def mean_power(window: Window | None) -> Estimate:
        if window is None:
            why = "the run ended before" if measurement.config.baseline.seconds else "baseline.seconds is 0"
            return Estimate.missing("W", f"idle power was not measured: {why}")
        parts = [idle_power(trace, window, domain.name) for domain in domains]
        return total(parts, unit="W", why_none=why_none)

    bare = mean_power(idle.bare)
    if any(domain.model is not None for domain in domains) and idle.bare is not None:
        bare = Estimate.missing("W", "no process to model before a run")
    return RunEnergy(
        measurement,
        domains,
        lacks,
        tuple(block_joules(trace, domains, block) for block in measurement.blocks),
        bare,
        mean_power(idle.loaded),
        mean_power(idle.after),
        why_none,
    )


def block_joules(trace: Trace, domains: Sequence[Domain], block: Block) -> BlockJoules:
    """Between its silences where it has them, else amid whatever is around it."""
    return BlockJoules(block, {domain.name: _spent(trace, domain, block) for domain in domains})


def _spent(trace: Trace, domain: Domain, block: Block) -> Spent:
    windows, whole = [one.window for one in block.passes], block.window
    if domain.model is None and (block.before is None or block.after is None):
        # Windows of a running load, or as in results of version 0.8, where each pass is a block of its own.
        return window_energy(trace, domain.name, *windows)
    before = block.before or Window(whole.start_ns, whole.start_ns)
    after = block.after or Window(whole.end_ns, whole.end_ns)
    return block_energy(trace, domain.name, before=before, passes=windows, after=after)


def counted_domains(
    domains: Sequence[Domain],
    config: ExperimentConfig,
    facts: SessionFacts,
    *,
    boundary: str | None = None,
) -> tuple[Domain, ...]:
    """The domains within `boundary` (None: the one asked for). Of its parts these make up the run's energy:
    GPUs that the session used, or those asked for; packages and memory of this host; a model of power only
    where nothing is measured, since the two never mix. A module holds its GPU, the CPU and the memory beside
    it: it counts where its GPU is not read, and then the host's packages do not. Where the work is on another
    host only GPUs that were asked for count here. On other hosts that are recorded everything counts in this
    way, of their GPUs those that the session names if it names any.
    """
    asked, boundary = config.energy.gpus != "auto", boundary or config.energy.boundary
    if facts.why_unmetered is not None:
        domains = [one for one in domains if one.host or (one.kind in {"gpu", "module"} and asked)]
    return chosen_domains(domains, facts.gpu_uuids, asked=asked, boundary=boundary)


def chosen_domains(
    domains: Sequence[Domain], gpu_uuids: Collection[str], *, asked: bool, boundary: str = "auto"
) -> tuple[Domain, ...]:
    """The same where `gpu_uuids` were used, or all GPUs that were read are `asked` for."""
    used = {f"gpu:{uuid}" for uuid in gpu_uuids}
    known = {domain.host for domain in domains if domain.host and domain.own_name in used}
    counted = [
        domain
        for domain in domains
        if domain.kind not in {"gpu", "module"}
        or domain.own_name in used
        or (asked if domain.host is None else domain.host not in known)
    ]
    return within(counted, boundary)


def why_no_source(measurement: Measurement, domains: Sequence[Domain]) -> str:
    """Why no energy can be known where the `domains` that count are none."""
    config = measurement.config.energy
    if not domains and measurement.facts.why_unmetered is not None:
        return f"{measurement.facts.why_unmetered}; GPUs of this host count where energy.gpus names them"
    left = [domain.name for domain in measurement.trace.domains]
    if domains or not left:
        return NO_SOURCE
    if config.boundary != "auto":
        return f"energy.boundary is {config.boundary}, and only {', '.join(left)} can be read"
    refused = ", though energy.require_measured is true" if config.require_measured else ""
    others = (
        "where the CPU can't be read, allow a model of it: --set energy.require_measured=false"
        if config.meter == "auto"
        else "read the CPU also: --meter auto"
    )
    return (
        f"nothing was measured{refused}: energy.gpus is auto, and the engine used none of the GPUs that were "
        f"read ({', '.join(left)}); to count them all the same: --set energy.gpus=all; or {others}"
    )


def pass_costs(trace: Trace, domains: Sequence[Domain], blocks: Sequence[Block]) -> list[float]:
    """What the stopping rule looks at: joules per output token of each full pass, or seconds per output token
    where no energy can be known.
    """
    full = [block for block in blocks if block.kind == "full"]
    parts = [block_joules(trace, domains, block).shares for block in full]
    passes = [one for block in full for one in block.passes]
    known = [share for part in parts if part is not None for share in part]
    return _per_token(known if len(known) == len(passes) else None, passes)


def _per_token(joules: Sequence[float] | None, passes: Sequence[Pass]) -> list[float]:
    spent = joules or [one.window.duration_s for one in passes]
    return [cost / max(one.output_tokens, 1) for cost, one in zip(spent, passes, strict=True)]


def idle_watts(trace: Trace, window: Window) -> float | None:
    """Mean power of what is measured, nothing twice; None where that is nothing or cannot be determined."""
    measured = [domain for domain in within(trace.domains) if domain.model is None]
    parts = [idle_power(trace, window, domain.name) for domain in measured]
    return total(parts, unit="W", why_none=NO_SOURCE).value


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return math.fsum(known) if known and len(known) == len(parts) else None
