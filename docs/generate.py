"""Write the parts of these pages that follow from code: engines, warnings and models."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llenergymeasure.analysis.codes import INVALIDATING, MEANINGS
from llenergymeasure.config.engines import APART, BACKENDS, EngineSection, brought_section
from llenergymeasure.config.keys import all_keys, keys_of
from llenergymeasure.config.models import ENGINES
from llenergymeasure.config.section import Section
from llenergymeasure.models.families import FAMILIES
from llenergymeasure.models.formulas import active_parameters, kv_cache_bytes, parameters, state_bytes
from llenergymeasure.models.shapes import SHAPES
from llenergymeasure.records import REMEDIES, Architecture, WarningCode

ROOT = Path(__file__).parents[1]
ENGINES_PAGE = ROOT / "docs" / "guides" / "engines.md"
MODELS_PAGE = ROOT / "docs" / "reference" / "models.md"
WARNINGS_PAGE = ROOT / "docs" / "reference" / "warnings.md"
CONFIGURATION_PAGE = ROOT / "docs" / "reference" / "configuration.md"

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
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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
$ llem init                            # writes a first file that fits this machine
$ llem config keys temperature         # finds a key: what it takes, its default, what it is for
$ llem config validate experiment.yaml # every error at once, with its line
$ llem config show experiment.yaml     # each value, and where it comes from
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

`llem run --model random:NAME` measures a published shape with random weights: the arithmetic and the bytes
are those of the real model, and nothing is downloaded. With `--dry-run` it prints what this table holds:

```console
$ llem run --model random:deepseek-v3 --dry-run
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


if __name__ == "__main__":
    if missing := APART.keys() - _APART.keys():
        sys.exit(f"install the plug-ins of {', '.join(missing)} first: make .venv/ready")
    MODELS_PAGE.write_text(models_page(), encoding="utf-8")
    ENGINES_PAGE.write_text(with_tables(ENGINES_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    WARNINGS_PAGE.write_text(warnings_page(), encoding="utf-8")
    CONFIGURATION_PAGE.write_text(configuration_page(), encoding="utf-8")
