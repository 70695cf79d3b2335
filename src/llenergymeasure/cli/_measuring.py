"""Which arguments and options do the commands take that measure, and that look at the machine?

A command's own module is imported once the command runs, so that help needs none of them.

Long because each option is a line of help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llenergymeasure.cli import _complete
from llenergymeasure.cli._app import app
from llenergymeasure.cli._options import (
    BOUNDARY,
    METER,
    AsJson,
    Assignments,
    Explained,
    Gpus,
    Shared,
    Tracebacks,
    to_number,
    to_path,
)


@app.command(name="run", help="Run an LLM efficiency experiment")
def run(  # noqa: PLR0913  the signature is the command line
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", parser=to_path, help="YAML file of an experiment or a study, or -"),
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
    n: Annotated[
        str | None, typer.Option("-n", metavar="<int>", parser=to_number, help="Number of prompts")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option("--batch-size", metavar="<int>", parser=to_number, help="Requests at once"),
    ] = None,
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
    meter: Annotated[str | None, METER] = None,
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


@app.command(name="exec", help="Measure any command", context_settings={"allow_interspersed_args": False})
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
    meter: Annotated[str, METER] = "auto",
    gpus: Gpus = None,
    boundary: Annotated[str, BOUNDARY] = "auto",
    shared: Shared = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to save the results in")
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress")] = False,
    verbose: Tracebacks = False,
) -> None:
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
        boundary=boundary,
        shared=shared,
        output=output,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )


@app.command(name="watch", help="Show what this machine draws now")
def watch(
    *,
    pid: Annotated[
        int | None,
        typer.Option("--pid", min=1, help="Also model the power of this process and all below it"),
    ] = None,
    meter: Annotated[str, METER] = "auto",
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks")] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after so many looks; by default at Ctrl-C")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line and look")] = False,
    verbose: Tracebacks = False,
) -> None:
    from llenergymeasure.cli.watch import watch

    watch(pid=pid, meter=meter, interval=interval, count=count, as_json=as_json, verbose=verbose)


@app.command(name="record", help="Record windows of any program, marked by lines on stdin")
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
    meter: Annotated[str, METER] = "auto",
    gpus: Gpus = None,
    boundary: Annotated[str, BOUNDARY] = "auto",
    shared: Shared = False,
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

        record_on_ray(
            ray_node, output=output, pid=pid, meter=meter, gpus=gpus, boundary=boundary, shared=shared
        )
        return
    from llenergymeasure.cli.record import record

    record(output=output, pid=pid, meter=meter, gpus=gpus, boundary=boundary, shared=shared)


@app.command(name="doctor", help="Show what this machine can measure")
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
    from llenergymeasure.cli.doctor import doctor

    doctor(characterise=characterise, simulated=simulated, as_json=as_json, verbose=verbose)


@app.command(name="calibrate", help="Calibrate a GPU's sensor against a reference")
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
            "offset too",
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
    from llenergymeasure.cli.calibrate import Options, calibrate

    calibrate(
        Options(against, accuracy, efficiency, rest, gpu, check=check, simulated=simulated),
        as_json=as_json,
        verbose=verbose,
    )


@app.command(name="selfcheck", help="Check how fast and true llem's client of servers is here")
def selfcheck(*, as_json: AsJson = False, verbose: Tracebacks = False) -> None:
    from llenergymeasure.cli.selfcheck import selfcheck

    selfcheck(as_json=as_json, verbose=verbose)
