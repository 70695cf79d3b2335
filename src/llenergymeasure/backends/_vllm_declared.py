"""Which arguments does the installed vLLM declare, and of which types? vLLM is read, not imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import JsonValue

from llenergymeasure.exceptions import BackendError

Part: TypeAlias = Literal["engine", "sampling", "beam_search"]

# Where vLLM declares them: fields of these classes; LLM's constructor names some of EngineArgs' and its own.
_DECLARED: Mapping[Part, tuple[str, str]] = {
    "engine": ("engine/arg_utils.py", "EngineArgs"),
    "sampling": ("sampling_params.py", "SamplingParams"),
    "beam_search": ("sampling_params.py", "BeamSearchParams"),
}
_LLM = ("entrypoints/llm.py", "LLM")

# Which values each type takes. Of what is made up of others only the outermost counts.
_TAKES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
    "list": (list,),
    "set": (list,),
    "tuple": (list,),
}


def accepted(part: Part) -> frozenset[str]:
    """The argument names that the installed vLLM's own source declares."""
    return frozenset(_annotations(part))


def why_wrong_type(part: Part, name: str, value: JsonValue) -> str | None:
    """Why an accepted argument does not take a value of that type, then `; ` and the way out.

    None where it does, and where vLLM declares a type of its own, which only vLLM can tell.
    """
    annotation = _annotations(part)[name]
    taken = None if annotation is None else _types(annotation)
    # What may be absent is declared with a plain type at times.
    if annotation is None or taken is None or value is None:
        return None
    # To Python true is an int as well.
    if isinstance(value, taken) and (bool in taken or not isinstance(value, bool)):
        return None
    return (
        f"vllm.{part}.{name} takes {ast.unparse(annotation)}, not {value!r}; "
        "give it a value of that type, or take it out"
    )


def _types(annotation: ast.expr) -> tuple[type, ...] | None:
    """The types of values that an annotation takes; None where it names one that is not plain."""
    match annotation:
        case ast.Constant(value=None):
            return ()
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)) if name in _TAKES:
            return _TAKES[name]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _types(inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return _all_types(parts)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _all_types([left, right])
        case _:
            return None


def _all_types(parts: list[ast.expr]) -> tuple[type, ...] | None:
    found: tuple[type, ...] = ()
    for part in parts:
        types = _types(part)
        if types is None:
            return None
        found += types
    return found


@cache
def _annotations(part: Part) -> Mapping[str, ast.expr | None]:
    """The arguments with their types; those of LLM's constructor come before the fields that they fill."""
    fields = {name: kind for name, kind in _fields(*_DECLARED[part]) if not name.startswith("_")}
    return fields | dict(_constructor(*_LLM)) if part == "engine" else fields


def _tree(file: str, kind: str) -> ast.ClassDef:
    spec = find_spec("vllm")
    assert spec is not None, "asked only where vLLM is installed"
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / file
        if path.is_file():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.name == kind:
                    return node
    raise BackendError(
        f"the installed vLLM declares no {kind} in {file}, so its arguments can't be checked",
        hint="install a version that fits this llem: vllm>=0.10",
    )


def _fields(file: str, kind: str) -> Iterator[tuple[str, ast.expr]]:
    for node in _tree(file, kind).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def _constructor(file: str, kind: str) -> Iterator[tuple[str, ast.expr | None]]:
    for node in _tree(file, kind).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.arg != "self":
                    yield argument.arg, argument.annotation
