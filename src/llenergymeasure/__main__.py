"""`llem`, and `python -m llenergymeasure`: Ctrl-C is heard before anything else is imported."""

from __future__ import annotations

# What `signal` wraps in enums, whose import takes longer than all that is here.
import _signal as signal  # type: ignore[import-not-found]
import gc
import os
import sys

from llenergymeasure import __version__

# pip asks for it too; a checkout that is run as it lies has only this.
_OLDEST = (3, 11)


def main() -> None:
    if sys.version_info[:2] < _OLDEST:
        sys.exit(f"llem needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    # Objects of a start are kept: to look through them again and again takes a tenth of its time.
    gc.set_threshold(50_000, 20, 20)
    # What is installed beside llem has no say in how it reads a configuration, and is not searched for it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What a caller has ignored stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    try:
        if sys.argv[1:] == ["--version"]:
            print(f"llem v{__version__}", flush=True)
        else:
            try:
                from llenergymeasure.cli import app, keep_only
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("llenergymeasure"):
                    raise
                sys.exit(
                    f"llem needs the package {error.name}, which {sys.executable} lacks; "
                    "in a checkout of llem: pip install ."
                )
            keep_only(*sys.argv[1:2])
            app(prog_name="llem")
    except OSError as error:
        # Of what prints help or the version: a command explains its own. The interpreter flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1 if isinstance(error, BrokenPipeError) else f"stdout can't be written: {error.strerror}")


def _end(*_: object) -> None:
    """At once: an import that an exception cuts short may hide it, or leave half a module."""
    os.write(2, b"Interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
