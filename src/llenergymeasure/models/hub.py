"""What of a model on the hub is on this disk, and can the hub be asked for the rest?

The layout of the cache is that of huggingface_hub, read without it: `models--org--name/refs/<revision>`
holds a commit, `snapshots/<commit>` its files.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from llenergymeasure.exceptions import PreFlightError

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]*", re.ASCII)
_TRUE = {"1", "ON", "YES", "TRUE"}
_LARGEST_CONFIG_BYTES = 4_000_000


def is_hub_id(name: str) -> bool:
    """Whether `name` could be a repository on the hub: `model` or `organisation/model`."""
    return (
        len(name) <= 96
        and _ID.fullmatch(name) is not None
        and "--" not in name
        and ".." not in name
        and not name.endswith((".git", ".", "-"))
    )


def is_revision(name: str) -> bool:
    """Whether `name` could be a branch, tag or commit, and leads out of no folder."""
    return _REVISION.fullmatch(name) is not None and ".." not in name


def cached_snapshot(hub_id: str, revision: str, *, kind: str = "models") -> Path | None:
    """The folder of that revision in the hub cache, whole or not; None when there is none.

    `kind` is `models` or `datasets`.
    """
    repository = hub_cache() / f"{kind}--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / revision
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if is_revision(commit) and snapshot.is_dir() else None


def is_offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def fetch_json(hub_id: str, revision: str, file: str, *, timeout_s: float = 5.0) -> Mapping[str, object]:
    """A small JSON file of a public repository, asked for once and without a token.

    Gives up after `timeout_s` whatever the network does. PreFlightError says why there is none.
    """
    answers: list[Mapping[str, object] | PreFlightError] = []
    url = f"{endpoint()}/{hub_id}/resolve/{revision}/{file}"
    # A look-up of the host's name obeys no timeout, hence the thread.
    thread = threading.Thread(target=lambda: answers.append(_get(url, timeout_s)), daemon=True)
    thread.start()
    thread.join(timeout_s)
    answer = answers[0] if answers else PreFlightError(f"{url}: no answer within {timeout_s:g} s")
    if isinstance(answer, PreFlightError):
        raise answer
    return answer


def why_out_of_reach(hub_id: str, *, timeout_s: float = 5.0) -> str | None:
    """Why that repository can't be fetched now, or None when the hub knows it or asks for a token."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    try:
        fetch_json(hub_id, "main", "config.json", timeout_s=timeout_s)
    except PreFlightError as error:
        return None if _may_be_gated(error) else error.message
    return None


def _may_be_gated(error: PreFlightError) -> bool:
    if getattr(error.__cause__, "code", None) not in {401, 403}:
        return False
    return has_token()


def has_token() -> bool:
    """Whether gated models can be asked for."""
    return bool(os.environ.get("HF_TOKEN")) or (_home() / "token").is_file()


def why_unreachable(timeout_s: float) -> str | None:
    """Why the hub itself does not answer; None where it does, whatever it says. Never takes longer."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_why_silent(timeout_s)), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else f"no answer within {timeout_s:g} s"


def _why_silent(timeout_s: float) -> str | None:
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(endpoint(), method="HEAD")  # noqa: S310  the scheme is the endpoint's
        urllib.request.urlopen(request, timeout=timeout_s).close()  # noqa: S310  the same
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _get(url: str, timeout_s: float) -> Mapping[str, object] | PreFlightError:
    # It brings TLS and half of the library of email, for what is seldom asked.
    import urllib.error
    import urllib.request

    error: PreFlightError
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310  the scheme is the endpoint's
            value = json.loads(response.read(_LARGEST_CONFIG_BYTES))
    except urllib.error.HTTPError as cause:
        cause.close()
        why = {401: "no such public model (private or gated, or misspelt)", 404: "not found"}
        error = PreFlightError(f"{url}: {why.get(cause.code, f'HTTP {cause.code}')}")
        error.__cause__ = cause
        return error
    except OSError as cause:
        error = PreFlightError(f"{url}: {getattr(cause, 'reason', cause)}")
        error.__cause__ = cause
        return error
    except ValueError as cause:
        return PreFlightError(f"{url}: {cause}")
    return value if isinstance(value, dict) else PreFlightError(f"{url}: no JSON object")


def endpoint() -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return endpoint.rstrip("/")


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser()


def hub_cache() -> Path:
    """Where models of the hub lie on this disk; it may not exist."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(named).expanduser() if named else _home() / "hub"


def cached_ids() -> list[str]:
    """The models that are in the hub's cache, in whole or in part."""
    try:
        names = sorted(one.name for one in hub_cache().iterdir() if one.name.startswith("models--"))
    except OSError:
        return []
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names]
