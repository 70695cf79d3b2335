"""Which arguments and options does each command take?

A command's own module is imported once the command runs, so that help needs none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from llenergymeasure.cli import _complete


def _path(text: str) -> Path:
    # An empty one comes of a shell variable that is not set, and would stand for the working directory.
    if not text:
        raise typer.BadParameter("it is empty; is the variable that it comes from set?")
    return Path(text)


NAMED = "result.json, the folder that holds one, the beginning of an id, or last"
Directory: TypeAlias = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", parser=_path, help="Where ids are looked for; results when absent"),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")]
Tracebacks: TypeAlias = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")]
Explained: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Explain the result; show tracebacks")
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other key, such as passes.seconds=10; may be repeated; llem config keys lists them",
        autocompletion=_complete.assignments,
    ),
]
_METER = typer.Option(
    "--meter",
    help="auto, nvml, amd, rapl, apple, hwmon, battery, ipmi, redfish, estimate or a plug-in's",
    autocompletion=_complete.meters,
)


def run(  # noqa: PLR0913  the signature is the command line
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", parser=_path, help="YAML file of an experiment or a study, or -"),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id, directory, GGUF file, alias, or random:<shape>",
            autocompletion=_complete.models,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "-b",
            help="Engine that runs the model, such as pytorch",
            autocompletion=_complete.backends,
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="mixed, synthetic, a JSON file, or hf:<name>")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Number of prompts")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Requests at once")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", "-p", help="fp32, fp16, bf16, int8 or int4", autocompletion=_complete.precisions
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="smoke, quick, rigorous, ai-energy-score or mlperf-power",
            autocompletion=_complete.presets,
        ),
    ] = None,
    meter: Annotated[str | None, _METER] = None,
    assignments: Assignments = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Directory to save the result in")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show configuration, plan and memory; run nothing")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop before the first pass where the budget is too small for an interval"
        ),
    ] = False,
    order: Annotated[
        str | None,
        typer.Option("--order", help="Of a study: sequential, interleaved, shuffled or balanced"),
    ] = None,
    no_gaps: Annotated[bool, typer.Option("--no-gaps", help="Of a study: no rest between runs")] = False,
    executor: Annotated[
        str | None, typer.Option("--executor", help="Of a study: local, slurm or ray")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a study")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: try runs that failed again")
    ] = False,
    accept_drift: Annotated[
        bool,
        typer.Option("--accept-drift", help="With --resume: continue although the study or versions changed"),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Of a study: experiments of this name; * is any text"),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No header and no progress")] = False,
    verbose: Explained = False,
) -> None:
    """Measure one experiment, from a file, from flags, from a file with flags on top, or a study."""
    from llenergymeasure.cli.run import How, run

    flags = {
        "model": model,
        "backend": backend,
        "dataset": dataset,
        "n": n,
        "--batch-size": batch_size,
        "precision": precision,
        "preset": preset,
        "energy.meter": meter,
        "output_dir": output,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    of_study = {
        "--order": order,
        "--no-gaps": no_gaps or None,
        "--executor": executor,
        "--resume": resume or retry_failed or accept_drift or None,
        "--retry-failed": retry_failed or None,
        "--accept-drift": accept_drift or None,
        "--only": tuple(only) if only else None,
    }
    run(
        config,
        given,
        assignments or [],
        how=How(dry_run, quiet, verbose, as_json, strict),
        of_study={name: value for name, value in of_study.items() if value is not None},
    )


def doctor(
    *,
    characterise: Annotated[
        bool,
        typer.Option(
            "--characterise",
            help="Load each GPU for half a minute, measure the timing of its power sensor, save it",
        ),
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Use the simulated board instead; saves nothing")
    ] = False,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    """Show what this machine can measure, what it lacks, and how to get it."""
    from llenergymeasure.cli.doctor import doctor

    doctor(characterise=characterise, simulated=simulated, as_json=as_json, verbose=verbose)


def calibrate(  # noqa: PLR0913  the signature is the command line
    *,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="REFERENCE",
            help="CSV file of an analyser (time, watts of the board), host, wall, or a meter's name",
        ),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option("--accuracy", metavar="PERCENT", min=0, max=50, help="Stated accuracy of the reference"),
    ] = None,
    efficiency: Annotated[
        str | None,
        typer.Option(
            "--efficiency",
            metavar="LOW:HIGH",
            help="Of host or wall: per cent of further power that reaches the board",
        ),
    ] = None,
    rest: Annotated[
        str | None,
        typer.Option(
            "--rest",
            metavar="LOW:HIGH",
            help="Of host or wall: watts that it shows of the machine without the board, which gives the "
            "offset also",
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="UUID or index, where there are several")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Instead: find how late the energy counter is and whether it looks at all of the time",
        ),
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Use the simulated board instead; saves nothing")
    ] = False,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    """Load a GPU in steps, compare its sensor with a reference, and keep gain and offset for later runs."""
    from llenergymeasure.cli.calibrate import Options, calibrate

    calibrate(
        Options(against, accuracy, efficiency, rest, gpu, check=check, simulated=simulated),
        as_json=as_json,
        verbose=verbose,
    )


def selfcheck(*, as_json: AsJson = False, verbose: Tracebacks = False) -> None:
    """Check the client against a server that knows when it sent each token. Takes about 15 s."""
    from llenergymeasure.cli.selfcheck import selfcheck

    selfcheck(as_json=as_json, verbose=verbose)


def show(  # noqa: PLR0913  the signature is the command line
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", parser=_path, help=NAMED, autocompletion=_complete.results)
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
        str | None, typer.Option("--format", help="Of a study: text, markdown, csv, latex or json")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Of a study: energy, throughput, ttft, tpot or memory")
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
    """Show a stored result as `llem run` does, one of its values, its uncertainty budget, or the table of a
    study.
    """
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


def compare(  # noqa: PLR0913  the signature is the command line
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            parser=_path,
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
        typer.Option("--format", help="text, json, markdown, latex, csv, or github: a summary of a CI job"),
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
    """Compare results: B / A with its interval and what it shows, or why they cannot be compared.

    Two studies are compared experiment by experiment; three and more results each with the baseline.
    """
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


def export(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…",
            parser=_path,
            help="Results or studies, by path, id, last, or a glob in quotes; directories that hold such",
            autocompletion=_complete.results,
        ),
    ],
    *,
    directory: Directory = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="csv, jsonl, parquet, latex, openmetrics, ai-energy-score, mlperf or mlflow",
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
    """Write results in a form that others read: one row each result, in SI units, with every interval."""
    from llenergymeasure.cli.export import export

    export(paths, to, directory=directory, output=output, is_long=long, verbose=verbose)


def recompute(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", parser=_path, help=NAMED, autocompletion=_complete.results)
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


def list_(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", parser=_path, help="Where results are; results when absent"),
    ] = None,
    *,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    """List the results and studies in a directory: what is there, what runs, what failed."""
    from llenergymeasure.cli.list import list_

    list_(directory, as_json=as_json, verbose=verbose)


def merge(
    studies: Annotated[
        list[Path],
        typer.Argument(metavar="STUDY…", parser=_path, help="Folders of one study, from several machines"),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", parser=_path, help="Folder for the whole study")],
    accept_drift: Annotated[
        bool,
        typer.Option(
            "--accept-drift", help="Although machines or versions differ: labels say which is which"
        ),
    ] = False,
    verbose: Tracebacks = False,
) -> None:
    """Join the folders of a study whose parts ran on several machines."""
    from llenergymeasure.cli.merge import merge

    merge(studies, output, accept_drift=accept_drift, verbose=verbose)


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…",
            parser=_path,
            help="Results or studies, by path, id, last, or a glob in quotes; directories that hold some",
            autocompletion=_complete.results,
        ),
    ],
    *,
    directory: Directory = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="By default report.html in the folder of PATH"),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="html, or md: Markdown, on stdout without --output")
    ] = "html",
    opened: Annotated[bool, typer.Option("--open", help="Show the page in the browser")] = False,
    verbose: Tracebacks = False,
) -> None:
    """Make one page of results or a study: a file with its plots and tables, which needs no network."""
    from llenergymeasure.cli.report import report

    report(paths, output, directory=directory, form=form, opened=opened, verbose=verbose)


def execute(  # noqa: PLR0913  the signature is the command line
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND …", help="Run without a shell")],
    *,
    runs: Annotated[int, typer.Option("-n", "--runs", min=1, help="Runs, a fresh process each")] = 10,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before them that do not count")] = 0,
    prepare: Annotated[
        str | None, typer.Option("--prepare", metavar="CMD", help="Shell command before each run")
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option("--vs", metavar="OTHER", help="Measure this command too, in turns, and compare"),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="REGEX",
            help="Its last match in the output, or that's first group, is the number of tokens produced",
        ),
    ] = None,
    ignore_failure: Annotated[
        bool, typer.Option("--ignore-failure", help="Measure runs that end with another code than 0")
    ] = False,
    meter: Annotated[str, _METER] = "auto",
    gpus: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="A GPU that counts, by UUID or index, or all; by default those in use"),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Read devices although another recorder does")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to save the results in")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False,
) -> None:
    """Measure a command: joules, seconds and peak memory of each run, with intervals over the runs."""
    from llenergymeasure.cli.exec import execute

    execute(
        command,
        runs=runs,
        warmup=warmup,
        prepare=prepare,
        versus=versus,
        tokens=tokens,
        ignore_failure=ignore_failure,
        meter=meter,
        gpus=gpus,
        shared=shared,
        output=output,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )


def watch(
    *,
    pid: Annotated[
        int | None,
        typer.Option("--pid", min=1, help="Also model the power of this process and all below it"),
    ] = None,
    meter: Annotated[str, _METER] = "auto",
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks")] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after so many looks; by default at Ctrl-C")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line and look")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False,
) -> None:
    """Show watts, joules since the start, temperature, clocks and throttling, again and again."""
    from llenergymeasure.cli.watch import watch

    watch(pid=pid, meter=meter, interval=interval, count=count, as_json=as_json, verbose=verbose)


def record(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to keep the result and its trace in")
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            "--pid", min=1, help="The process whose tree a model of power counts; by default the caller"
        ),
    ] = None,
    meter: Annotated[str, _METER] = "auto",
    gpus: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="A GPU that counts, by UUID or index, or all; by default those in use"),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Read devices although another recorder does")
    ] = False,
    ray_node: Annotated[
        str | None,
        typer.Option(
            "--ray-node",
            metavar="NODE",
            help="Record on that node of the Ray cluster at RAY_ADDRESS instead, by its address or name",
        ),
    ] = None,
) -> None:
    """Record, and hear marks as JSON lines on stdin; answers and the result are lines on stdout.

    Ends at {"do": "stop"} or when stdin is closed.
    """
    if ray_node is not None:
        from llenergymeasure.cli.record_on_ray import record_on_ray

        record_on_ray(ray_node, output=output, pid=pid, meter=meter, gpus=gpus, shared=shared)
        return
    from llenergymeasure.cli.record import record

    record(output=output, pid=pid, meter=meter, gpus=gpus, shared=shared)


def config_show(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", parser=_path, help="YAML file of an experiment, or -")
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


def config_validate(
    configs: Annotated[
        list[Path], typer.Argument(metavar="FILE…", parser=_path, help="Experiments and studies, or -")
    ],
    *,
    verbose: Tracebacks = False,
) -> None:
    """Check files and run nothing: every error at once, with its line. Exit code 2 where there is one."""
    from llenergymeasure.cli.config import validate

    validate(configs, verbose=verbose)


def config_schema(
    *,
    study: Annotated[bool, typer.Option("--study", help="Of study files")] = False,
    result: Annotated[bool, typer.Option("--result", help="Of result files")] = False,
    verbose: Tracebacks = False,
) -> None:
    """Print the JSON Schema of experiment files, for editors and other programs."""
    from llenergymeasure.cli.config import schema

    schema(study=study, result=result, verbose=verbose)


def config_keys(
    word: Annotated[str | None, typer.Argument(metavar="WORD", help="Part of a key or its meaning")] = None,
    *,
    as_json: AsJson = False,
    verbose: Tracebacks = False,
) -> None:
    """List every key of a configuration: what it takes, its default, what it is for."""
    from llenergymeasure.cli.config import keys

    keys(word, as_json=as_json, verbose=verbose)


def init(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", parser=_path, help="Where to write it; experiment.yaml or study.yaml when absent"
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
    """Write a first experiment or study that fits this machine, with comments, and check it."""
    from llenergymeasure.cli.init import init

    init(path, model=model, backend=backend, study=study, yes=yes, force=force, verbose=verbose)
