"""How are the packages of an extra installed beside this very llem?"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import distribution
from urllib.parse import unquote, urlsplit


def install(extra: str) -> str:
    """The command, from where this llem came from: its checkout, a file, a repository, or an index.

    An index may hold other versions, which have other extras: there the version is named. Where it came from
    is in `direct_url.json` (PEP 610).
    """
    found = distribution("llenergymeasure")
    came = json.loads(found.read_text("direct_url.json") or "{}")
    url = str(came.get("url", ""))
    if url.startswith("file:"):
        editable = "-e " if came.get("dir_info", {}).get("editable") else ""
        return f"pip install {editable}{shlex.quote(f'{unquote(urlsplit(url).path)}[{extra}]')}"
    if vcs := came.get("vcs_info"):
        source = f"llenergymeasure[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
        return f"pip install {shlex.quote(source)}"
    return f"pip install 'llenergymeasure[{extra}]=={found.version}'"
