"""Which value is a secret, which a configuration must not hold: it is stored with every result?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue, ValidationInfo

# By the last word of a name, in lower case with _ for -. Counts, ids and the names of special tokens, such as
# max_tokens, token_ids and pad_token, are none.
_SECRET = re.compile(
    r"^token$|(?:hf|hub|huggingface|auth|access|api|bearer|refresh|session|user|secret)_?token$"
    r"|(?:api|access|private|secret)_?key$|secret$|passw(?:or)?d$|passphrase$|authorization$|credentials?$"
)


def is_secret(key: str) -> bool:
    """Whether what goes by this name, of a dotted key the last one, should not be seen."""
    return bool(_SECRET.search(key.rpartition(".")[2].lower().replace("-", "_")))


def way_out(key: str) -> str:
    """The variable of the environment that takes it instead."""
    name = key.rpartition(".")[2].lower()
    if "key" in name:
        return "set the environment variable of its service instead, such as OPENAI_API_KEY"
    if "token" in name:
        return "set the environment variable HF_TOKEN instead"
    return "set the environment variable that the engine or the service reads instead"


def without_secrets(values: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
    """The same. ValueError, without the value, where a name at any depth is that of a secret.

    With `stored` in the validation context any will do: it was let through when it was stored.
    """
    for key in () if (info.context or {}).get("stored") else _secrets(values, ""):
        raise ValueError(f"{key} looks like a secret, which every result would hold; {way_out(key)}")
    return values


def _secrets(value: JsonValue, key: str) -> Iterator[str]:
    """The keys of text, or of a number, under the name of a secret; true and null name none."""
    named: list[tuple[str, JsonValue]] = []
    if isinstance(value, dict):
        named = [(f"{key}.{name}" if key else name, inner) for name, inner in value.items()]
    elif isinstance(value, list):
        named = [(key, inner) for inner in value]
    elif value is not None and not isinstance(value, bool) and is_secret(key):
        yield key
    for name, inner in named:
        yield from _secrets(inner, name)
