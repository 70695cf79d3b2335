"""How do the steps of a run show on a terminal, while they last?"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from llenergymeasure.cli._streams import UNBROKEN, filled, printable, room, talk
from llenergymeasure.records import Progress
from llenergymeasure.records.figures import about

BAR = 10
TICK_S = 1.0
# Without a terminal a step that is so much over its time says so, and again after twice as long.
OVERDUE_S = 30.0
# Steps whose expected time is the longest that they may begin anything new, not how long they take.
CAPPED = ("cooling", "warming up")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run said last of itself."""

    description: str
    total: float | None = None
    step: int | None = None
    steps: int | None = None
    run: int | None = None
    runs: int | None = None
    left_s: float | None = None
    note: str | None = None
    passes: int | None = None
    live: Callable[[], str | None] | None = None

    def at(self, elapsed: float) -> str:
        """The description `elapsed` seconds into it. A block says nothing until its passes are over, so that
        which of them runs is by their expected time.
        """
        if self.passes is None or self.passes < 2 or not self.total:
            return self.description
        done = min(self.passes, int(elapsed / self.total * self.passes) + 1)
        return self.description.replace(f"{self.passes} passes", f"≈ pass {done} of {self.passes}")


def line(shown: Shown, elapsed: float, *, since: float, width: int) -> str:
    """One line for the terminal: where in the plan, what, for how long, and the time left.

    `elapsed` are the seconds of this step, `since` those since it was last heard of. What does not fit is
    left out, the least needed first.
    """
    bar = left = ""
    total, over = shown.total, shown.total is not None and elapsed >= shown.total + 1
    if total is None:
        times = f"{elapsed:.0f} s so far"
    elif over:
        limit = "cap" if shown.description.startswith(CAPPED) else "expected"
        times = f"{limit} {total:g} s, {elapsed:.0f} s so far"
    else:
        done = round(BAR * min(elapsed / total, 1.0)) if total else BAR
        bar, times = f"[{'#' * done}{'.' * (BAR - done)}]", f"{min(elapsed, total):.0f} of {total:.0f} s"
    if shown.left_s is not None:
        # A step that is over its time takes none of that of the others.
        spent = since if total is None else min(since, max(0.0, total - (elapsed - since)))
        left = f"{about(round(max(0.0, shown.left_s - spent)))} left"
    run, step = _place(shown)
    where = ", ".join(filter(None, (run, step)))
    live = (shown.live() if shown.live is not None else None) or ""
    notes, note = ", ".join(filter(None, (shown.note, live))), shown.note or live.partition(", ")[0]
    what = shown.at(elapsed)
    for parts in (
        (where, what, bar, times, notes, left),
        (where, what, "", times, notes, left),
        (where, what, "", times, note, left),
        (where, what, "", times, note, ""),
        (where, shown.description, "", times, "", ""),
        (run, shown.description, "", times, "", ""),
        ("", shown.description, "", times, "", left),
        ("", shown.description, "", times, "", ""),
    ):
        text = _joined(*parts)
        if len(text) < width:
            return text
    return text[: max(0, width - 2)] + "…"


def _place(shown: Shown) -> tuple[str, str]:
    return (
        f"run {shown.run} of {shown.runs}" if shown.run and (shown.runs or 0) > 1 else "",
        f"step {shown.step} of {shown.steps}" if shown.step and shown.steps else "",
    )


def _joined(where: str, description: str, bar: str, times: str, note: str, left: str) -> str:
    head = f"{where}: {description}" if where else description
    step = f"{head} {bar} {times}" if bar else f"{head}, {times}"
    return ", ".join(filter(None, (step, note, left)))


def remark(bar: tqdm[Any], text: str) -> None:
    """A paragraph on stderr, above the bar where there is one."""
    if bar.disable:
        talk(text)
    else:
        lines = map(printable, filled(text, width=room(sys.stderr)))
        tqdm.write("\n".join(lines), file=sys.stderr)


@contextmanager
def steps_shown(*, quiet: bool = False) -> Iterator[Progress]:
    """A callback that shows each step on a line of the terminal, which is gone afterwards; `following` tells
    what becomes of it elsewhere.
    """
    silent = quiet or sys.stderr is None or not sys.stderr.isatty()
    with (
        tqdm(total=None, file=sys.stderr, disable=silent, leave=False, bar_format="{desc}") as bar,
        following(bar, quiet=quiet) as progress,
    ):
        yield progress


@contextmanager
def following(
    bar: tqdm[Any], *, quiet: bool = False, now: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """A callback that shows each step on the bar's line; in between the line ticks once a second. Where the
    bar is disabled, each step is a line of its own, with another where it takes much longer than was
    expected, and none with `quiet`.
    """
    began = now()
    shown, started, heard, overdue_s = Shown("starting"), began, began, OVERDUE_S

    def said(text: str) -> None:
        talk(f"[{now() - began:.0f} s] {text}")

    def remind() -> None:
        nonlocal overdue_s
        elapsed = now() - started
        if shown.total is not None and elapsed >= shown.total + overdue_s:
            overdue_s *= 2
            said(line(shown, elapsed, since=now() - heard, width=UNBROKEN))

    def show() -> None:
        at, width = now(), shutil.get_terminal_size((80, 24)).columns
        bar.n, bar.total = at - started, shown.total
        bar.set_description_str(printable(line(shown, at - started, since=at - heard, width=width)))

    def progress(description: str, *, done: float | None = None, **more: Any) -> None:
        nonlocal shown, started, heard, overdue_s
        heard, before = now(), shown
        shown = Shown(description, **more)
        # The same step, heard of again, goes on; a note or a forecast is what is new.
        same = (before.description, before.run, before.step) == (description, shown.run, shown.step)
        if done is not None or not same:
            started = heard - (done or 0.0)
        if not same:
            overdue_s = OVERDUE_S
        show()
        if bar.disable and not quiet and not same:
            place = ", ".join(filter(None, _place(shown)))
            left = "" if shown.left_s is None else f", about {about(round(shown.left_s))} left"
            said(f"{place}{': ' if place else ''}{description}{left}")

    if bar.disable and quiet:
        yield progress
        return
    with _ticking(remind if bar.disable else show):
        yield progress


@contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """`tick` once a second."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(TICK_S):
            tick()

    ticker = threading.Thread(target=run, name="llem-progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        stop.set()
        ticker.join()
