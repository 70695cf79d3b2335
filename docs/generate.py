"""Write the pages, and parts of pages, that follow from code."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from llenergymeasure.analysis.codes import INVALIDATING, MEANINGS
from llenergymeasure.cli import app
from llenergymeasure.cli._help import EXAMPLES
from llenergymeasure.config.engines import APART, BACKENDS, EngineSection, brought_section
from llenergymeasure.config.keys import all_keys, keys_of
from llenergymeasure.config.models import ENGINES
from llenergymeasure.config.section import Section
from llenergymeasure.models.families import FAMILIES
from llenergymeasure.models.formulas import active_parameters, kv_cache_bytes, parameters, state_bytes
from llenergymeasure.models.shapes import SHAPES
from llenergymeasure.records import REMEDIES, Architecture, WarningCode
from llenergymeasure.results.schema import result_schema

ROOT = Path(__file__).parents[1]
ENGINES_PAGE = ROOT / "docs" / "guides" / "engines.md"
MODELS_PAGE = ROOT / "docs" / "reference" / "models.md"
WARNINGS_PAGE = ROOT / "docs" / "reference" / "warnings.md"
CONFIGURATION_PAGE = ROOT / "docs" / "reference" / "configuration.md"
CLI_PAGE = ROOT / "docs" / "reference" / "cli.md"
RESULTS_PAGE = ROOT / "docs" / "reference" / "results.md"

_BUILT_IN = {name: ENGINES.get(name) or brought_section(name) or EngineSection for name in BACKENDS}
_OWN: Mapping[str, type[EngineSection]] = {
    name: section for name, section in _BUILT_IN.items() if not section().traits.is_simulated
}
# The engines that are packages of their own, where they are installed; their cells lie beside them.
_APART = {name: section for name in APART if (section := brought_section(name)) is not None}
SECTIONS = {**_OWN, **_APART}
MADE_BELOW = "<!-- The rest is made by: python docs/generate.py -->\n"

_ALL = dict.fromkeys(_OWN, "yes")
_SERVERS = "if the server runs it so: nobody checks"
_OPTIONS = (
    "What holds for every engine (`precision`, `decoder`, `random_seed`, token limits) stands at the top of\n"
    "a configuration. The options of the engine that runs stand in a section of its name, in the file or as\n"
    "`--set vllm.batch_size=8`; those of another engine are refused."
)

# Whether an engine takes a setting. A cell begins with yes, no, or if where something else decides; a test
# holds yes and no against what the engines themselves refuse.
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "precision=fp32": {**_ALL, "llamacpp": "if the file is", "openai": _SERVERS},
    "precision=fp16": {**_ALL, "llamacpp": "if the file is", "openai": _SERVERS},
    "precision=bf16": {
        **_ALL,
        "llamacpp": "yes: the default, which stands for what the file holds",
        "openai": "yes: the default, which stands for what the server runs",
    },
    "precision=int8": {
        "pytorch": "if what quantises is installed and can on this device: `pytorch.quantization`",
        "vllm": "no: `vllm.engine.quantization`",
        "llamacpp": "if the file is",
        "openai": _SERVERS,
    },
    "precision=int4": {
        "pytorch": "if what quantises is installed and can on this device: `pytorch.quantization`",
        "vllm": "no: `vllm.engine.quantization`",
        "llamacpp": "if the file is",
        "openai": _SERVERS,
    },
    "decoder.temperature=0.7": _ALL,
    "decoder.top_p=0.9": _ALL,
    "decoder.top_k=40": {**_ALL, "openai": "no: `openai.body` takes it by the server's own name"},
    "decoder.repetition_penalty=1.1": {
        **_ALL,
        "openai": "no: `openai.body` takes it by the server's own name",
    },
    "output_length=exact": {
        **_ALL,
        "openai": "yes: where the server takes `ignore_eos`, `min_tokens` or transformers' "
        "`generation_config`; `tokens.pinned_ok` says whether it did",
    },
    "output_length=natural": _ALL,
    "lora.path=adapter": {
        **{
            name: "yes: kept apart from the weights" if "lora" in section().traits.takes else "no"
            for name, section in _OWN.items()
        },
        "pytorch": "if peft is installed; `lora.merged` or not",
    },
    "passthrough_kwargs.low_cpu_mem_usage=true": {
        **dict.fromkeys(_OWN, "no"),
        "pytorch": "if weights are loaded, not random",
        "vllm": "no: `vllm.engine` takes any argument",
        "openai": "no: `openai.body` takes any field",
    },
    "model=random:llama-3.2-1b": {**_ALL, "llamacpp": "no", "openai": "yes: its token ids are bytes"},
    "model=smollm2-135m": {
        "pytorch": "yes: the GGUF is converted once to plain weights",
        "vllm": "yes: the GGUF is converted once to plain weights",
        "llamacpp": "yes: the GGUF as it is",
        "openai": "yes: for its tokenizer",
    },
}

# What is known of an engine beside that.
_FACTS: Mapping[str, Mapping[str, str]] = {
    "models": {
        "pytorch": "hub, directory, GGUF, random weights",
        "vllm": "hub, directory, GGUF, random weights",
        "llamacpp": "a GGUF file",
        "openai": "any, by `openai.model`; `model` names the same one here, for its tokenizer and shape",
    },
    "batches": {
        "pytorch": "static: `pytorch.batch_size`, padded to the longest prompt",
        "vllm": "the engine's own, from all requests or `vllm.batch_size` at once",
        "llamacpp": "one request after the other",
        "openai": "the server's own, from the requests that `load` sends",
    },
    "beam search": {
        "pytorch": "`pytorch.num_beams`",
        "vllm": "`vllm.beam_search`",
        "llamacpp": "none",
        "openai": "none",
    },
    "speculation": {
        "pytorch": "`pytorch.prompt_lookup_num_tokens`, `pytorch.assistant_model`",
        "vllm": "`vllm.engine.speculative_config`",
        "llamacpp": "none",
        "openai": "the server's affair",
    },
    "several GPUs": {
        "pytorch": "`pytorch.device_map`, `pytorch.tp_plan`, `pytorch.num_processes`",
        "vllm": "`vllm.engine.tensor_parallel_size`, `vllm.engine.pipeline_parallel_size`",
        "llamacpp": "layers over all that are visible, with `llamacpp.gpu_layers`",
        "openai": "the server's affair",
    },
    "keys and values of an earlier prompt": {
        "pytorch": "never kept",
        "vllm": "not kept; `vllm.engine.enable_prefix_caching` keeps them within a walk",
        "llamacpp": "emptied before each request",
        "openai": "the server's affair: turn its prefix cache off",
    },
    "time of the first token": {
        "pytorch": "when the step of its batch that made it was done",
        "vllm": "the engine's own stamp for each request; none with beam search",
        "llamacpp": "when it was picked",
        "openai": "when the chunk came that carried it",
    },
    "time of the end": {
        "pytorch": "when the step that made the last token was done",
        "vllm": "the engine's own stamp for each request; with beam search that of the batch",
        "llamacpp": "when the last token was picked",
        "openai": "when the chunk came that ended the answer",
    },
    "weights and cache, bytes": {
        "pytorch": "counted from the tensors, and the largest cache that was seen",
        "vllm": "counted in the engine's workers (by the shape where it packs weights), and the whole cache",
        "llamacpp": "what llama.cpp says",
        "openai": "not told",
    },
    "peak memory": {
        "pytorch": "CUDA's allocator; on a CPU the peak resident size",
        "vllm": "CUDA's allocator of all workers; on a CPU the peak resident size of all its processes",
        "llamacpp": "llama.cpp's buffers on the GPUs; on a CPU the peak resident size",
        "openai": "not told",
    },
}


def _whole(table: str, rows: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """The rows with a cell more for each engine of a package of its own."""
    whole = {row: dict(cells) for row, cells in rows.items()}
    for name in _APART:
        page = tomllib.loads((ROOT / "plugins" / APART[name] / "page.toml").read_text(encoding="utf-8"))
        for row, cells in whole.items():
            cells[name] = page[table][row]
    return whole


SETTINGS, FACTS = _whole("settings", _SETTINGS), _whole("facts", _FACTS)

_INTRODUCTION = """# Warnings

After this page you know what each warning of a result means, and what to do about it.

A result lists what weakens its numbers: `warnings[].code` is one of the codes below, with what was seen and
what to do about it. The list is closed. This page is made by `python docs/generate.py`.

Those that say so also set `energy.valid` to false and are listed in `energy.reasons`, since they make the
joules wrong by an unknown amount. The numbers stay in the file, and `llem compare --fail-on-regression`
refuses to judge by them. All others leave the energy valid: they widen it, name the state that it holds for,
or say what could not be checked.

A field that a driver does not give is unknown, which is not the same as nothing found. What is unknown of a
device is listed in `notes`; an unknown list of processes raises `cannot_exclude_foreign_processes`.
"""


def tables() -> str:
    """The part of the page that is made from code, as Markdown."""
    parts = [
        "## What each engine takes and tells",
        "\n".join(_table(["", *SECTIONS], _rows())),
        "## Options",
        _OPTIONS,
    ]
    for name, section in SECTIONS.items():
        parts += [f"### `{name}`", (section.__doc__ or "").strip(), "\n".join(_options(section))]
    return "\n\n".join(parts) + "\n"


def with_tables(page: str) -> str:
    """The page with its tables as they are now. ValueError where the line that they follow is missing."""
    written, line, _ = page.partition(MADE_BELOW)
    if not line:
        raise ValueError(f"the page lacks the line {MADE_BELOW.strip()}")
    return f"{written}{line}\n{tables()}"


def _rows() -> Iterator[Sequence[str]]:
    for label, cells in (*FACTS.items(), *((f"`{setting}`", cells) for setting, cells in SETTINGS.items())):
        yield [label, *(cells[name] for name in SECTIONS)]


def _options(section: type[Section]) -> Iterator[str]:
    rows = [[f"`{one.name}`", one.values, one.default or "–", one.about] for one in keys_of(section)]
    return _table(["option", "values", "default", "what it is"], rows)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line(row) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """What stands between angle brackets would be taken for HTML, but for code."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def warnings_page() -> str:
    return _INTRODUCTION + "".join(_warning(code, remedy) for code, remedy in REMEDIES.items())


def _warning(code: WarningCode, remedy: str) -> str:
    parts = [f"## `{code}`", MEANINGS[code]]
    if code in INVALIDATING:
        parts.append("With it the energy is not valid.")
    return "\n" + "\n\n".join([*parts, f"What to do: {remedy}."]) + "\n"


_CONFIGURATION = """# Configuration

After this page you can write an experiment or a study file, and find out why a value is what it is.

```console
$ llem init --yes                      # writes a first file that fits this machine; without --yes it asks
Saved: experiment.yaml
…
$ llem config keys temperature         # finds a key: what it takes, its default, what it is for
decoder.temperature  number from 0, default 0.0
    0 is greedy
$ llem config validate experiment.yaml # every error at once, with its line
experiment.yaml: valid experiment
$ llem config show experiment.yaml     # each value, and where it comes from
…
```

A value comes from the first of these that gives it: a flag or `--set KEY=VALUE`, the file, a variable of
the environment (`LLEM_` and the key in capitals, with `__` for each dot: `LLEM_PASSES__SECONDS=10`), the
user's own `config.yaml` (on Linux in `~/.config/llenergymeasure`), the preset, the default.

A file that begins with the line below is completed and checked by editors that read JSON Schema, such as
VS Code with its YAML extension. `llem init` writes that line, `llem config schema` prints the schema, and
with `--study` or `--result` that of studies or of results.

```yaml
# yaml-language-server: $schema=experiment.schema.json
```

In Python `ExperimentConfig(preset="rigorous", ...)` holds just what it is given, and `preset` is a label.
To apply a preset as a file does, with what is given on top, pass a mapping:
`run_experiment({"model": "gpt2", "preset": "rigorous"})`, or `load_experiment_config` with `cli_overrides`.

A configuration holds no secret, since every result holds its configuration. What is named `hf_token`,
`api_key`, `password` or the like is refused, and the error names the environment variable to set instead.

The options of each engine are listed with [the engines](../guides/engines.md), the keys of a study with
[studies](../guides/studies.md). This page is made by `python docs/generate.py`.

"""


def configuration_page() -> str:
    engines = tuple(f"{name}." for name in (*BACKENDS, *APART))
    rows = [
        [f"`{one.name}`", one.values, one.default or "–", one.about]
        for one in all_keys()
        if not one.name.startswith(engines)
    ]
    return _CONFIGURATION + "\n".join(_table(["key", "values", "default", "what it is"], rows)) + "\n"


_MODELS = """# Models

After this page you know which published models llem knows by name, and how much each weighs.

`llem run --model random:NAME` measures a published shape with random weights: the arithmetic and the bytes
are those of the real model, and nothing is downloaded. With `--dry-run` it prints what this table holds:

```console
$ llem run --model random:deepseek-v3 --dry-run
…
Model
  parameters    671,026,404,352
  active        37,552,282,624   that one token of text meets, tables included
…
```

Active are the parameters that one token of text meets, tables of embeddings included, without the experts
that it is not sent to and without a vision tower. Bytes are those of 16-bit numbers: of the cache for one
token while it fits the window of every layer, and of a state that has one size at every length. Layers with a
window keep no more than its tokens. DeepSeek's latent attention caches one vector for a token and layer, in
transformers 5.24 as in vLLM; transformers makes keys and values of all of them anew in each step, which
the FLOPs hold. Falcon-40B's cache is that of its grouped heads, as vLLM has it; transformers repeats them for
each query head. The figures come from each model's published `config.json`.

Families whose files and hub ids are understood: {families}. Of another family everything is measured but the
FLOPs; the context and the size of its weights are read from its files. This page is made by
`python docs/generate.py`.

"""


def models_page() -> str:
    head = [
        "name",
        "family",
        "parameters",
        "active",
        "context",
        "windows",
        "KV bytes per token",
        "state bytes",
    ]
    rows = [[f"`{name}`", f"`{a.family}`", *_figures(a)] for name, a in SHAPES.items()]
    families = ", ".join(f"`{name}`" for name in FAMILIES)
    return _MODELS.replace("{families}", families) + "\n".join(_table(head, rows)) + "\n"


def _figures(a: Architecture) -> Iterator[str]:
    yield f"{parameters(a):,}"
    yield f"{active_parameters(a):,}"
    yield "–" if a.context is None else f"{a.context:,}"
    attending = [(layer.count, one.window) for layer in a.layers if (one := layer.attention)]
    slide = sum(count for count, window in attending if window is not None)
    widths = {window for _, window in attending if window is not None}
    total = sum(layer.count for layer in a.layers)
    yield f"{slide} of {total} layers: {max(widths):,}" if widths else "–"
    yield f"{kv_cache_bytes(a, batch=1, tokens=1, bytes_per_element=2):,}"
    yield f"{state_bytes(a, batch=1, bytes_per_element=2):,}"


_CLI = """# Command line

After this page you know every command and option. `llem COMMAND --help` prints the same.

```console
$ llem --version
llem v…
```

Data goes to stdout: results, tables, what `--json` and `--dry-run` print. Progress, warnings of a run that
goes on, and errors go to stderr, an error with its way out on a line that begins with `hint:`.

| exit code | meaning |
| --- | --- |
| 0 | done; of `--dry-run` also where this machine would refuse the run |
| 1 | a run, its preflight or the engine failed, or a result cannot be read. What was measured is kept |
| 2 | the configuration is wrong, or results cannot be compared |
| 3 | a study finished with failures |
| 4 | `compare --fail-on-regression` found a regression |
| 124 | timeout |
| 130, 129, 143 | ended by Ctrl-C, SIGHUP, SIGTERM |

`NO_COLOR`, `FORCE_COLOR` and `--color` decide on colour. `llem --install-completion` makes commands, options,
keys of `--set` and ids of results complete at a press of Tab, in a new shell. This page is made by
`python docs/generate.py`.
"""
_HIDDEN = {"help", "color", "install_completion", "show_completion"}


def cli_page() -> str:
    return _CLI + "".join(_commands("llem", typer.main.get_command(app)))


# Typer carries a click of its own, whose classes have no public name.
def _commands(path: str, command: Any) -> Iterator[str]:
    if (inner := getattr(command, "commands", None)) is not None:
        for name, one in inner.items():
            yield from _commands(f"{path} {name}", one)
        return
    context = command.make_context(path, [], resilient_parsing=True)
    yield f"\n## {path}\n\n{command.help}.\n"
    yield f"\n```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n\n"
    records = [one.get_help_record(context) for one in command.params if one.name not in _HIDDEN]
    rows = [[f"`{name}`", about] for name, about in filter(None, records)]
    yield "\n".join(_table(["argument or option", "what it is"], rows)) + "\n"
    if (examples := EXAMPLES.get(path)) is not None:
        lines = "".join(f"$ {line}\n" for line in examples.lines)
        yield f"\n<!-- not run: needs the files that it names -->\n```console\n{lines}```\n"
        title = (ROOT / examples.page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield f"\nMore: [{title}](../{examples.page.removeprefix('docs/')}).\n"


_RESULTS = """# Result files

After this page you know what every key of `result.json` holds.

```console
$ llem config schema --result > result.schema.json
```

prints the JSON Schema (draft 2020-12) that this page is made from, by `python docs/generate.py`; it is also
in the package, `llenergymeasure/results/result.schema.json`. Files of every version since 0.8 are read: they
are brought to the present form while they are loaded. A file of a newer version is refused.

Names end in their units: `_j`, `_w`, `_s`, `_ns`, `_bytes`. What is missing is `null`, never 0. Where a
figure can be missing, it is an [Estimate](#estimate), whose `reason` says why. [Reading a
result](../guides/reading-a-result.md) explains the figures themselves.

`kind` is `inference` for an [experiment](#experimentresult), and `windows` or `command` for
[your own code](#windowsresult).
"""


def results_page() -> str:
    schema: Mapping[str, Any] = result_schema()
    defined = schema["$defs"]
    order = ["ExperimentResult", "WindowsResult"]
    for name in order:  # grows while it is walked
        for other in re.findall(r"#/\$defs/(\w+)", str(defined[name])):
            if other not in order and not _is_config(other):
                order.append(other)
    return _RESULTS + "".join(_object(name, defined[name]) for name in order if name != "JsonValue")


def _is_config(name: str) -> bool:
    return name.endswith("Config") or name == "SimulatedFault"


def _object(name: str, facts: Mapping[str, Any]) -> str:
    rows = [
        [f"`{key}`", _type(one), " ".join(one.get("description", "").split())]
        for key, one in facts["properties"].items()
    ]
    about = [text] if (text := facts.get("description")) else []
    return "\n\n".join([f"\n## {name}", *about, "\n".join(_table(["key", "holds", "meaning"], rows))]) + "\n"


def _type(facts: Mapping[str, Any]) -> str:
    """What a key holds, with links to what is described below."""
    if reference := facts.get("$ref"):
        name = reference.rpartition("/")[2]
        if name == "JsonValue":
            return "any value"
        return "[configuration](configuration.md)" if _is_config(name) else f"[{name}](#{name.lower()})"
    if parts := facts.get("anyOf") or facts.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, parts)))
    if choices := facts.get("enum") or [facts[key] for key in ("const",) if key in facts]:
        return ", ".join(f"`{one}`" for one in choices)
    kind: str = facts.get("type", "any value")
    if kind == "array":
        inside = facts.get("prefixItems") or [facts.get("items", {})]
        kind = "list of " + ", ".join(map(_type, inside))
    elif kind == "object" and isinstance(facts.get("additionalProperties"), dict):
        kind = f"names with {_type(facts['additionalProperties'])}"
    return {"string": "text", "boolean": "true, false"}.get(kind, kind)


if __name__ == "__main__":
    if missing := APART.keys() - _APART.keys():
        sys.exit(f"install the plug-ins of {', '.join(missing)} first: make .venv/ready")
    MODELS_PAGE.write_text(models_page(), encoding="utf-8")
    ENGINES_PAGE.write_text(with_tables(ENGINES_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    WARNINGS_PAGE.write_text(warnings_page(), encoding="utf-8")
    CONFIGURATION_PAGE.write_text(configuration_page(), encoding="utf-8")
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    RESULTS_PAGE.write_text(results_page(), encoding="utf-8")
