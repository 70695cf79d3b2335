"""How do the errors of all tools look side by side?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.realclock import Measured

# Below this a point sits on the axis: nobody needs to tell 0.0005 % from 0.
_FLOOR_PERCENT = 1e-3
_COLOURS = {
    "llem": "#1b7837",
    "zeus": "#c51b7d",
    "codecarbon": "#e08214",
    "two reads": "#4393c3",
    "100 ms trapezoid": "#7f7f7f",
}


def draw(path: Path, measured: Sequence[Measured], limits: Mapping[str, float], *, section: str) -> None:
    """One panel per kind of load and length of window; a point is the error of one window, the bar its
    tool's median, the line what is allowed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [one for one in measured if one.section == section and one.error is not None]
    cases = list(dict.fromkeys(one.case for one in shown))
    loads = list(dict.fromkeys(case.rpartition(", ")[0] for case in cases))
    lengths = list(dict.fromkeys(case.rpartition(", ")[2] for case in cases))
    if not cases:
        raise ValueError("there is nothing to draw: no tool gave a figure")
    figure, axes = plt.subplots(
        len(loads), len(lengths), figsize=(4 * len(lengths), 3.1 * len(loads)), sharey=True, squeeze=False
    )
    for row, load in enumerate(loads):
        for column, length in enumerate(lengths):
            case, axis = f"{load}, {length}", axes[row][column]
            _panel(axis, [one for one in shown if one.case == case], limits.get(case))
            axis.set_title(f"{load}\nwindows of {length}", fontsize=9)
    for row in range(len(loads)):
        axes[row][0].set_ylabel("|error|, % of the true energy")
    figure.suptitle(f"{section}, by load and length of the window")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: object, found: Sequence[Measured], limit: float | None) -> None:
    from matplotlib.axes import Axes

    if not isinstance(axis, Axes):
        raise TypeError(f"a panel is drawn on axes, got {type(axis).__name__}")
    names = [name for name in _COLOURS if any(one.tool == name for one in found)]
    for place, name in enumerate(names):
        errors = sorted(100 * abs(one.error or 0.0) for one in found if one.tool == name)
        heights = [max(error, _FLOOR_PERCENT) for error in errors]
        spread = [place + 0.5 * ((number + 0.5) / len(errors) - 0.5) for number in range(len(errors))]
        axis.plot(spread, heights, "o", color=_COLOURS[name], markersize=3, alpha=0.6)
        axis.hlines(heights[len(heights) // 2], place - 0.32, place + 0.32, color=_COLOURS[name], linewidth=2)
    if limit is not None:
        axis.axhline(100 * limit, color="black", linewidth=0.8, linestyle="--")
        axis.annotate(
            f"allowed: {100 * limit:g} %",
            (1, 100 * limit),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_ylim(_FLOOR_PERCENT, 200)
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=7)
    axis.grid(axis="y", alpha=0.25)
