"""`llem watch`: what does this machine draw now?"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import psutil

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_lines, reader_may_leave, say
from llenergymeasure.energy import Meter
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.exceptions import ConfigError, EnergyError
from llenergymeasure.measure.look import Look, looks
from llenergymeasure.records import Domain, MeterChoice
from llenergymeasure.records.figures import percent, plain
from llenergymeasure.results.summary import MISSING, columns

_HEADS = ("domain", "power", "energy", "temperature", "clock", "slowed by heat", "held at limit", "source")
_UP, _CLEAR = "\x1b[{}A", "\x1b[J"


def watch(
    *, pid: int | None, meter: str, interval: float, count: int | None, as_json: bool, verbose: bool
) -> None:
    with reported(verbose=verbose):
        if pid is not None and _has_ended(pid):
            raise ConfigError(f"there is no process {pid}", hint="ps -ef lists them")
        meters = _meters(meter, pid)
        shown = 0
        with reader_may_leave():
            try:
                for found in itertools.islice(looks(meters, clock=time, every_s=interval), 1, _most(count)):
                    if as_json:
                        print_lines([_line(found)])
                    else:
                        shown = _redraw(list(_table(found, pid)), above=shown)
                    sys.stdout.flush()
                    if pid is not None and _has_ended(pid):
                        say(f"process {pid} has ended")
                        break
            except KeyboardInterrupt:
                # That is how somebody stops looking.
                say("")


def _has_ended(pid: int) -> bool:
    try:
        # One that nobody has waited for yet has ended too.
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _most(count: int | None) -> int | None:
    """The first look has no rates yet and is not shown."""
    return None if count is None else count + 1


def _meters(meter: str, pid: int | None) -> Sequence[Meter]:
    selection = choose_meters(MeterChoice(meter, "all"), processes=lambda: [] if pid is None else [pid])
    if pid is None and selection.method == "modelled":
        why = "; ".join(f"{name}: {reason}" for name, reason in selection.refused)
        raise EnergyError(
            f"no sensor can be read on this machine: {why or 'the model of power needs a process'}",
            hint="llem watch --pid PID models the power of a process",
        )
    if pid is not None or meter != "auto":
        return selection.meters
    return [one for one in selection.meters if all(domain.model is None for domain in _domains(one))]


def _domains(meter: Meter) -> Sequence[Domain]:
    with meter:
        return meter.domains()


def _line(found: Sequence[Look]) -> str:
    now = {"utc": datetime.now(UTC).isoformat(timespec="milliseconds"), "t_ns": time.monotonic_ns()}
    return json.dumps({**now, "domains": [asdict(one) for one in found]}, allow_nan=False)


def _table(found: Sequence[Look], pid: int | None) -> Iterator[str]:
    rows = [_row(one, pid) for one in found]
    kept = [at for at in range(len(_HEADS)) if any(row[at] != MISSING for row in rows)]
    yield from columns([tuple(row[at] for at in kept) for row in (_HEADS, *rows)])
    yield from (f"{one.domain}: {one.reason}" for one in found if one.reason)


def _row(one: Look, pid: int | None) -> tuple[str, ...]:
    modelled = one.method == "modelled"
    return (
        f"process {pid}" if modelled else one.domain,
        MISSING if one.watts is None else ("≈ " if modelled else "") + plain(one.watts, "W"),
        MISSING if one.joules is None else plain(one.joules, "J"),
        MISSING if one.temperature_c is None else f"{one.temperature_c:.0f} °C",
        MISSING if one.sm_clock_hz is None else f"{one.sm_clock_hz / 1e6:.0f} MHz",
        MISSING if one.slowed_by_heat is None else percent(one.slowed_by_heat),
        MISSING if one.held_by_limit is None else percent(one.held_by_limit),
        one.source,
    )


def _redraw(lines: list[str], *, above: int) -> int:
    """In place of the last table on a terminal, below it elsewhere; returns its height."""
    on_terminal = sys.stdout.isatty()
    if on_terminal and above:
        sys.stdout.write(_UP.format(above) + _CLEAR)
    print_lines(lines if on_terminal or not above else ["", *lines])
    return len(lines)
