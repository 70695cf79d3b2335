"""Which arguments and options do the commands take that write and check configurations?

A command's own module is imported once the command runs, so that help needs none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llenergymeasure.cli import _complete
from llenergymeasure.cli._app import app, config
from llenergymeasure.cli._options import AsJson, Assignments, Tracebacks, to_path


@app.command(name="init", help="Write a first experiment that fits this machine")
def init(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            parser=to_path,
            help="Where to write it; experiment.yaml or study.yaml when absent",
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Model to measure; else a question", autocompletion=_complete.models
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", "-b", help="Engine; else a question", autocompletion=_complete.backends),
    ] = None,
    study: Annotated[bool, typer.Option("--study", help="A study of several experiments")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take what fits this machine")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists")] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.init import init

    init(path, model=model, backend=backend, study=study, yes=yes, force=force, verbose=verbose)


@config.command(name="show", help="Show each value and where it comes from")
def config_show(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", parser=to_path, help="YAML file of an experiment, or -")
    ] = None,
    *,
    assignments: Assignments = None,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    """Show each value that is in force, and where it comes from: a flag, a file, the environment, a default.

    Without CONFIG: what would hold for any experiment here.
    """
    from llenergymeasure.cli.config import show

    show(config, assignments or [], as_json=as_json, verbose=verbose)


@config.command(name="validate", help="Check files: every error at once")
def config_validate(
    configs: Annotated[
        list[Path], typer.Argument(metavar="FILE…", parser=to_path, help="Experiments and studies, or -")
    ],
    *,
    verbose: Tracebacks = False,
) -> None:
    """Check files and run nothing: every error at once, with its line. Exit code 2 where there is one."""
    from llenergymeasure.cli.config import validate

    validate(configs, verbose=verbose)


@config.command(name="schema", help="Print the JSON Schema that editors read")
def config_schema(
    *,
    study: Annotated[bool, typer.Option("--study", help="Of study files")] = False,
    result: Annotated[bool, typer.Option("--result", help="Of result files")] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.config import schema

    schema(study=study, result=result, verbose=verbose)


@config.command(name="keys", help="List every key: type, default, meaning")
def config_keys(
    word: Annotated[
        str | None,
        typer.Argument(metavar="WORD", help="Part of a key or its meaning", autocompletion=_complete.keys),
    ] = None,
    *,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.config import keys

    keys(word, as_json=as_json, verbose=verbose)
