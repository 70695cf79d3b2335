"""Which names does a copy of the package tensorrt_llm have? Its source is read, none of it imported."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# Where a class may be defined; versions have moved some of them.
HOMES = {
    "LLM": ["llmapi/llm.py"],
    "TorchLlmArgs": ["llmapi/llm_args.py"],
    "TrtLlmArgs": ["llmapi/llm_args.py"],
    "KvCacheConfig": ["llmapi/llm_args.py"],
    "QuantConfig": ["models/modeling_utils.py", "quantization/config.py", "quantization/quant_config.py"],
    "SamplingParams": ["sampling_params.py"],
    "RequestOutput": ["llmapi/llm.py", "executor/result.py"],
    "CompletionOutput": ["executor/result.py"],
}
BINDINGS = ["bindings/executor/__init__.pyi", "bindings/executor.pyi"]

Read = Callable[[str], str | None]
Classes = Mapping[str, ast.ClassDef]


def reader(source: Path) -> Read:
    """The text of a module inside a wheel, or inside a folder that holds tensorrt_llm; None where absent."""
    if source.suffix == ".whl":
        wheel = zipfile.ZipFile(source)
        inside = set(wheel.namelist())

        def from_wheel(name: str) -> str | None:
            path = f"tensorrt_llm/{name}"
            return wheel.read(path).decode() if path in inside else None

        return from_wheel

    def from_folder(name: str) -> str | None:
        path = source / "tensorrt_llm" / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return from_folder


def names(read: Read) -> dict[str, set[str]]:
    """What the package exports, its classes' fields and attributes, and its methods' parameters.

    A class of the compiled bindings is there only where the copy has their description beside them.
    """
    found = {
        "tensorrt_llm": {*_exported(_tree(read, "__init__.py")), "llmapi", "_tensorrt_engine"},
        "llmapi": set(_exported(_tree(read, "llmapi/__init__.py"))),
        "_tensorrt_engine": set(_exported(_tree(read, "_tensorrt_engine/__init__.py"))),
    }
    for kind, homes in HOMES.items():
        classes = _classes(read, [*homes, "executor/result.py"])
        if kind in classes:
            found[kind] = set(_members(kind, classes))
    for method in ("__init__", "generate"):
        found[f"LLM.{method}"] = set(_parameters("LLM", method, _classes(read, HOMES["LLM"])))
    bindings = _classes(read, BINDINGS)
    for kind in ("RequestPerfMetrics", "TimingMetrics"):
        if kind in bindings:
            found[kind] = set(_members(kind, bindings))
    return found


def _tree(read: Read, name: str) -> ast.Module:
    return ast.parse(read(name) or "")


def _exported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            yield from ast.literal_eval(node.value)


def _classes(read: Read, homes: list[str]) -> dict[str, ast.ClassDef]:
    """Classes by name, nested ones too."""
    return {
        node.name: node
        for home in homes
        for node in ast.walk(_tree(read, home))
        if isinstance(node, ast.ClassDef)
    }


def _lineage(kind: str, classes: Classes) -> Iterator[ast.ClassDef]:
    if kind in classes:
        yield classes[kind]
        for base in classes[kind].bases:
            yield from _lineage(ast.unparse(base).rpartition(".")[2], classes)


def _members(kind: str, classes: Classes) -> Iterator[str]:
    """Fields, methods and properties, and what the constructor puts on itself; inherited ones too."""
    for node in _lineage(kind, classes):
        for one in node.body:
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                yield one.target.id
            if isinstance(one, ast.FunctionDef):
                yield one.name
        written = (inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute))
        yield from (
            inner.attr
            for inner in written
            if isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self"
        )


def _parameters(kind: str, method: str, classes: Classes) -> Iterator[str]:
    for node in _lineage(kind, classes):
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and one.name == method:
                yield from (argument.arg for argument in (*one.args.args, *one.args.kwonlyargs))
                return
