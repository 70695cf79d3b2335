"""Which arguments and options do the commands take that read results?

A command's own module is imported once the command runs, so that help needs none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llenergymeasure.cli import _complete
from llenergymeasure.cli._app import app
from llenergymeasure.cli._options import NAMED, AsJson, Directory, Explained, Paths, Tracebacks, to_path


@app.command(name="list", help="List the results and studies in a directory")
def list_(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", parser=to_path, help="Where results are; results when absent"),
    ] = None,
    *,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.list import list_

    list_(directory, as_json=as_json, verbose=verbose)


@app.command(name="show", help="Show a stored result, its uncertainty budget, or a study")
def show(  # noqa: PLR0913  the signature is the command line
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", parser=to_path, help=NAMED, autocompletion=_complete.results)
    ],
    *,
    field: Annotated[
        str | None,
        typer.Option(
            "--field", metavar="KEY", help="Print one value of the file, such as energy.per_output_token"
        ),
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Show what makes up the uncertainty of the energy")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of a study: text, markdown, csv, latex or json",
            autocompletion=_complete.among("text", "markdown", "csv", "latex", "json"),
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="Of a study: energy, throughput, ttft, tpot or memory",
            autocompletion=_complete.among("energy", "throughput", "ttft", "tpot", "memory"),
        ),
    ] = None,
    holds: Annotated[
        str | None,
        typer.Option(
            "--holds",
            metavar="'accuracy>=P%'",
            help="Of a study: only what keeps P % of the accuracy of its first experiment, and the cheapest",
        ),
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
    verbose: Explained = False,
) -> None:
    from llenergymeasure.cli.show import show

    show(
        result,
        directory=directory,
        field=field,
        uncertainty=uncertainty,
        as_json=as_json,
        form=form,
        sort=sort,
        holds=holds,
        verbose=verbose,
    )


@app.command(name="compare", help="Compare results or studies, B against A")
def compare(  # noqa: PLR0913  the signature is the command line
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            parser=to_path,
            help=f"{NAMED}; a study, or a glob in quotes",
            autocompletion=_complete.results,
        ),
    ],
    *,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="What the others are compared with; the first when absent"
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="KEY",
            help="Compare although they differ in this: unit, simulated, method, boundary, model, "
            "workload, tokens, driver, power_limit or clocks; or single_process: judge by the intervals "
            "within single processes; several with commas, or repeated",
        ),
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Compare modelled with measured energy (--allow method)")
    ] = False,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on-regression",
            metavar="'FIGURE>P%'",
            help="End with exit code 4 where this figure, such as per_output_token, is worse by over P %, "
            "beyond the interval and systematic errors; needs three runs of each; may be repeated",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="text, json, markdown, latex, csv, or github: a summary of a CI job",
            autocompletion=_complete.among("text", "json", "markdown", "latex", "csv", "github"),
        ),
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The same as --format markdown")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="The same as --format latex")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv")] = False,
    directory: Directory = None,
    running: Annotated[
        bool,
        typer.Option(
            "--run", help="A and B are files of experiments: run them in turns until the interval says enough"
        ),
    ] = False,
    at_least: Annotated[
        str | None,
        typer.Option(
            "--at-least", metavar="P%", help="With --run: end too where a difference of P % is excluded"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="TIME", help="With --run: 90s, 30min or 2h; at most 30 blocks are made"
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="With --run: directory to save the results in")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="With --run: no progress")] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.compare import compare

    flags = {"json": as_json, "markdown": markdown, "latex": latex, "csv": as_csv}
    forms = [*([form] if form else []), *(name for name, given in flags.items() if given)]
    if len(forms) > 1:
        raise typer.BadParameter(f"one format at a time, and these were given: {', '.join(forms)}")
    named = {name.strip() for each in allow or [] for name in each.split(",")}
    allowed = {*named, *(["method"] if allow_mixed else [])}
    only_running = {"--at-least": at_least, "--budget": budget, "--output": output, "--quiet": quiet or None}
    stray = [name for name, value in only_running.items() if value is not None]
    if running and (baseline is not None or directory is not None):
        raise typer.BadParameter("--baseline and --dir are for stored results, and --run makes them")
    if running:
        from llenergymeasure.cli.compare_running import compare_running

        compare_running(
            results,
            output=output,
            at_least=at_least,
            budget=budget,
            allowed=allowed,
            limits=limits or [],
            form=forms[0] if forms else "text",
            quiet=quiet,
            verbose=verbose,
        )
        return
    if stray:
        raise typer.BadParameter(f"{', '.join(stray)}: only with --run")
    compare(
        results,
        directory=directory,
        baseline=baseline,
        allowed=allowed,
        limits=limits or [],
        form=forms[0] if forms else "text",
        verbose=verbose,
    )


@app.command(name="report", help="Make one page of results or a study")
def report(
    paths: Paths,
    *,
    directory: Directory = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="By default report.html in the folder of PATH"),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="html, or md: Markdown, on stdout without --output",
            autocompletion=_complete.among("html", "md"),
        ),
    ] = "html",
    opened: Annotated[bool, typer.Option("--open", help="Show the page in the browser")] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.report import report

    report(paths, output, directory=directory, form=form, opened=opened, verbose=verbose)


@app.command(name="export", help="Write results as CSV, Parquet, LaTeX and other forms")
def export(
    paths: Paths,
    *,
    directory: Directory = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="csv, jsonl, parquet, latex, openmetrics, ai-energy-score, mlperf or mlflow",
            autocompletion=_complete.among(
                "csv", "jsonl", "parquet", "latex", "openmetrics", "ai-energy-score", "mlperf", "mlflow"
            ),
        ),
    ] = "csv",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file; of mlflow its tracking URI; else stdout"
        ),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Of csv, jsonl and parquet: a row each metric, with its reason")
    ] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.export import export

    export(paths, to, directory=directory, output=output, is_long=long, verbose=verbose)


@app.command(name="recompute", help="Compute a stored result again and list what changed")
def recompute(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", parser=to_path, help=NAMED, autocompletion=_complete.results)
    ],
    *,
    directory: Directory = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write result.json where a folder has whole runs and no result")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the new result instead")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List every value that changed; show tracebacks")
    ] = False,
) -> None:
    """Compute a stored run's numbers again from its trace and events, and say what changed.

    Where a run did not end: compute what can be computed from what it left. Exit code 1 where values differ
    although this very version wrote the result.
    """
    from llenergymeasure.cli.recompute import recompute

    recompute(result, directory=directory, save=save, as_json=as_json, verbose=verbose)


@app.command(name="merge", help="Join the folders of one study from several machines")
def merge(
    studies: Annotated[
        list[Path],
        typer.Argument(metavar="STUDY…", parser=to_path, help="Folders of one study, from several machines"),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=to_path, help="Folder for the whole study")
    ],
    accept_drift: Annotated[
        bool,
        typer.Option(
            "--accept-drift", help="Although machines or versions differ: labels say which is which"
        ),
    ] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.merge import merge

    merge(studies, output, accept_drift=accept_drift, verbose=verbose)
