"""What was pasted where a name belongs: a web address, a path of Windows, a variable?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PAGE = re.compile(
    r"(?:https?://(?:www\.)?|(?:www\.)?)(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<path>[^?#\s]+)(?:[?#]\S*)?|hf:/*(?P<short>.+)"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Pasted:
    """Why it is no name, and the way out."""

    reason: str
    way_out: str


def masked(text: str) -> str:
    """Without the name and password that an address may hold: a message is seen, and stored, by others."""
    return _CREDENTIALS.sub("…@", text)


def pasted_model(text: str) -> Pasted | None:
    """None where `text` may well be a model's name."""
    if page := _PAGE.fullmatch(_CREDENTIALS.sub("", text)):
        kind, hub_id, more = _parts(page)
        if kind == "datasets":
            return Pasted("is a dataset on the hub", f"as one it is --dataset hf:{hub_id}")
        what = "is a page of the hub, not a model's name" if page["path"] else "begins with hf:"
        revision = (
            f", and the revision {more[1]!r} in the engine's section"
            if more[1:] and more[1] != "main"
            else ""
        )
        return Pasted(what, f"--model {hub_id}{revision}")
    if (tag := re.fullmatch(r"ollama[:/]+(.+)|([\w.-]+:[\w.-]+)", text)) and not exists(text):
        way_out = f"name its GGUF file, after FROM in: ollama show {tag[1] or tag[2]} --modelfile"
        return Pasted("looks like a name of Ollama's", way_out)
    return _elsewhere(text)


def pasted_dataset(text: str) -> Pasted | None:
    """None where `text` may well be a dataset's name."""
    page = _PAGE.fullmatch(_CREDENTIALS.sub("", text))
    if page and (page["path"] or text.startswith("hf://")):
        kind, hub_id, more = _parts(page)
        if kind != "datasets":
            return Pasted("is a page of the hub, but not of a dataset", "a dataset's is …/datasets/<name>")
        # The viewer's address holds the configuration and the split.
        chosen = "".join(f":{part}" for part in more[1:3]) if more[:1] == ["viewer"] else ""
        return Pasted("is a page of the hub, not a dataset's name", f"--dataset hf:{hub_id}{chosen}")
    return _elsewhere(text)


def _parts(page: re.Match[str]) -> tuple[str, str, list[str]]:
    """`models` or `datasets`, the id, and what follows it in the address."""
    parts = [part for part in (page["path"] or page["short"]).split("/") if part]
    kind = parts.pop(0) if parts[:1] and parts[0] in {"datasets", "models"} else "models"
    # Datasets and models of the first days have no organisation.
    size = 1 if len(parts) == 1 or parts[1] in {"tree", "blob", "resolve", "viewer"} else 2
    return kind, "/".join(parts[:size]), parts[size:]


def _elsewhere(text: str) -> Pasted | None:
    found = None
    if re.match(r"https?://", text):
        found = Pasted("is a web address", "download it first, and name the file")
    elif address := re.match(r"([a-z][a-z0-9+.-]*)://", text):
        found = Pasted(f"is an address of {address[1]}", "copy it to this disk first, and name the directory")
    elif drive := re.match(r"([A-Za-z]):[\\/]+(.*)", text):
        rest = drive[2].replace("\\", "/")
        found = Pasted("is a path of Windows", f"in WSL it is /mnt/{drive[1].lower()}/{rest}")
    elif "\\" in text:
        found = Pasted("holds backslashes", f"paths have slashes here: {text.replace(chr(92), '/')}")
    elif "$" in text:
        found = Pasted("holds a variable", "the shell replaces it outside of single quotes, and llem nowhere")
    elif text[0] in "'\"" and text[-1] == text[0]:
        found = Pasted("is in quotes twice", f"without them: {text[1:-1]}")
    return None if found is None or exists(text) else found


def exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # a name too long
        return False
