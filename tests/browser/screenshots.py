"""Makes the pictures of the report's page in the docs.

PYTHONPATH=.:tests/unit python tests/browser/screenshots.py docs/guides
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report.made import many_results, one_result
from example_result import example_result
from pydantic import JsonValue
from report_pages import chromium, opened, report
from virtual_study import VirtualExecutor, base, run_virtually

WIDTH = 1000


def studies(folder: Path) -> Iterator[tuple[str, Path, str, str, str]]:
    """The name of a picture, its results, the theme, and the sections where it begins and ends."""
    made = one_result(folder / "made")
    many_results(made, folder / "many", 500)
    yield "report-500", folder / "many", "light", "#tradeoff", "#scaling"
    yield "report-one", made, "dark", "#plot-power", "#distributions"
    example_result(energy="modelled").save(folder / "modelled")
    yield "report-modelled", folder / "modelled", "light", "#warnings", "#parts"
    failing: dict[str, JsonValue] = {
        **base(repeats={"count": 3}, passes={"seconds": 2.0, "count": 3, "prefill": 0}),
        "name": "batch-sizes",
        "sweep": {"simulated.batch_size": [1, 2]},
    }

    def fault(task: Any, _attempt: int) -> str | None:
        return "oom" if task.config.simulated.batch_size == 2 else None

    run_virtually(failing, folder / "failures", executor=VirtualExecutor(fault=fault)).write(
        folder / "failures"
    )
    yield "report-failures", folder / "failures", "light", "#warnings", "#experiments"


def main(target: Path) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver, chromium(driver) as browser:
        for name, results, theme, first, last in studies(Path(folder)):
            file = report([results], Path(folder) / f"{name}.html")
            how = {"viewport": {"width": WIDTH, "height": 900}, "device_scale_factor": 0.9}
            with opened(browser, file, color_scheme=theme, **how) as page:
                top = page.locator(first).bounding_box()["y"]
                end = page.locator(last).bounding_box()
                below = end["y"] if last == "#distributions" else end["y"] + end["height"]
                clip = {"x": 0, "y": top - 12, "width": WIDTH, "height": below - top + 24}
                page.screenshot(path=target / f"{name}.png", full_page=True, clip=clip)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
