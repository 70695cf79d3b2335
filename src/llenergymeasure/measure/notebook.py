"""How is a cell of a notebook measured? `%load_ext llenergymeasure`, then `%%llem` on its first line."""

from __future__ import annotations

import asyncio
from typing import Any

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.own_code import Monitor


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython."""

    def llem(line: str, cell: str) -> object:
        """%%llem [NAME] [--window]: what this cell costs, as a block between silences or without them."""
        words = line.split()
        flags = [word for word in words if word.startswith("-")]
        names = [word for word in words if not word.startswith("-")]
        if len(names) > 1 or set(flags) - {"--window"}:
            raise ConfigError(f"%%llem {line}: not understood", hint="%%llem [NAME] [--window]")
        if _loop_runs() and shell.should_run_async(cell, transformed_cell=shell.transform_cell(cell)):
            raise ConfigError(
                "%%llem can't measure a cell that awaits",
                hint="measure inside of it: async with m.window(name)",
            )
        name = names[0] if names else "cell"
        with Monitor() as monitor:
            window = monitor.window(name) if flags else monitor.block(name)
            window.start()
            # It shows an exception of the cell by itself, and returns it.
            outcome = shell.run_cell(cell)
            error = outcome.error_before_exec or outcome.error_in_exec
            window.stop(error=None if error is None else type(error).__name__)
        return monitor.result

    shell.register_magic_function(llem, magic_kind="cell")


def _loop_runs() -> bool:
    """As it does in a notebook, where a cell cannot run its own awaits within another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
