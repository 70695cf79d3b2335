"""Which experiment would fit this machine, as a file that explains itself?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.backends import why_not
from llenergymeasure.config import yaml
from llenergymeasure.config.engines import BACKENDS, backend_names, brought_section
from llenergymeasure.config.models import ENGINES, EnergyConfig, ExperimentConfig
from llenergymeasure.config.schema import EXPERIMENT_SCHEMA, STUDY_SCHEMA
from llenergymeasure.config.suggest import nearest
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.exceptions import ConfigError, LLEMError
from llenergymeasure.host.machine import cpu_name, processors, read_cpuinfo
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.models.hub import cached_ids
from llenergymeasure.models.resolve import ALIASES


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides on a first experiment: engines that can run it, the likeliest first, models that are at
    hand, and which domains a meter measures.
    """

    description: str
    engines: tuple[str, ...]
    models: tuple[str, ...]
    measured: tuple[str, ...]
    has_gpu: bool


def look() -> Machine:
    """At this machine. It never raises: what can't be found out is not there."""
    gpus = gpu_facts()
    names = [gpu.name or gpu.uuid for gpu in gpus]
    cpu = cpu_name(read_cpuinfo()) or "unknown CPU"
    return Machine(
        description=f"{', '.join(names) or 'no GPU'}; {cpu}, {processors():g} processors",
        engines=tuple(_engines()),
        models=(*ALIASES, *cached_ids()),
        measured=_measured(),
        has_gpu=bool(gpus),
    )


def why_no_engine(name: str, model: str) -> str | None:
    """Why that engine can't run such an experiment here."""
    if name not in backend_names():
        meant = nearest(name, backend_names())
        return f"no engine is named {name}" + (f"; did you mean {meant}?" if meant else "")
    try:
        why = why_not(name, ExperimentConfig.model_validate({"model": model, "backend": name}))
    except (LLEMError, ValueError) as error:
        return str(error)
    return None if why is None else str(why)


def draft(machine: Machine, *, model: str, backend: str, study: bool, name: str) -> str:
    """The text of a file for that machine, named `name`: an experiment, or a study of one axis."""
    schema = STUDY_SCHEMA if study else EXPERIMENT_SCHEMA
    section = ENGINES.get(backend) or brought_section(backend)
    is_batched = section is not None and section().traits.why_no_batch_size is None
    prompts, tokens_in, tokens_out, batch = (100, 512, 128, 8) if machine.has_gpu else (8, 128, 32, 4)
    lines = [
        f"# yaml-language-server: $schema={schema.as_posix()}",
        f"# Made by `llem init` for this machine: {machine.description}.",
        f"# What it would do:  llem run {name} --dry-run",
        f"# To measure:        llem run {name}",
        "# Every key:         llem config keys",
        "",
        f"model: {_scalar(model)}  # hub id, directory, GGUF file, alias, or random:<shape>",
        f"backend: {backend}  # can run here: {', '.join(machine.engines)}",
        "",
        "# The work: so many prompts, cut to a length, and exactly so many output tokens each.",
        f"n: {prompts}",
        f"max_input_tokens: {tokens_in}",
        f"max_output_tokens: {tokens_out}",
        "# dataset: prompts.jsonl  # your own; without it a built-in mix",
        "# precision: fp16  # fp32, fp16, bf16 (the default), int8 or int4",
    ]
    if is_batched and not study:
        lines += ["", f"{backend}:", f"  batch_size: {batch}  # requests at once"]
    if study:
        lengths = f"max_output_tokens: [{tokens_out // 2}, {tokens_out}]"
        axis = f"{backend}.batch_size: [1, {batch}]" if is_batched else lengths
        lines += ["", "# Every combination of these values is an experiment.", "sweep:", f"  {axis}"]
    lines += [
        "",
        "# How well: the scatter of fresh processes makes the interval, and three are the least.",
        "repeats: {count: 3}",
        "# preset: rigorous  # longer passes, five processes, until ± 2 %",
        *([] if machine.has_gpu else ["passes: {seconds: 4, count: 3}"]),
        "",
        *_energy(machine),
        "",
        "output_dir: results",
    ]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """As YAML has it: with quotes where it would be read as something else."""
    try:
        return text if yaml.parse(f"{text}  # end", where="model") == text else json.dumps(text)
    except ConfigError:
        return json.dumps(text)


def _energy(machine: Machine) -> Iterator[str]:
    if machine.measured:
        yield f"# Measured here: {', '.join(machine.measured)}."
        yield "energy:"
        yield "  require_measured: true  # rather refuse to run than estimate"
    else:
        yield "# Nothing here can be measured: energy is estimated by a model of power, with a wide range."
        yield "# What is missing, and how to get it: llem doctor"
        yield "# energy: {require_measured: true}  # rather refuse to run than estimate"


def _engines() -> Iterator[str]:
    """What can run a model here, in the order of the table, then plug-ins, and at last what runs none."""
    ordered = [*BACKENDS, *(name for name in backend_names() if name not in BACKENDS)]
    simulated = [name for name in ordered if name in ENGINES and ENGINES[name]().traits.is_simulated]
    for name in (*(name for name in ordered if name not in simulated), *simulated):
        if why_no_engine(name, ALIASES[0]) is None:
            yield name


def _measured() -> tuple[str, ...]:
    try:
        found = choose_meters(EnergyConfig(gpus="all"), processes=tuple)
    except LLEMError:
        return ()
    return tuple(domain.name for domain in found.domains)
