"""Where does a server run: which processes of this host are it, or why can nobody here see its power?"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psutil

from llenergymeasure.backends import installed_versions
from llenergymeasure.backends.openai.client import Client, UnreachableError
from llenergymeasure.backends.openai.launch import Launched
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import SessionFacts

_LOOK_S = 0.2

# They listen for somebody else, who may be on another host.
_FORWARDERS = {
    "docker-proxy",
    "rootlessport",
    "ssh",
    "kubectl",
    "socat",
    "haproxy",
    "nginx",
    "envoy",
    "traefik",
}
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "tini", "dumb-init", "docker-init", "supervisord", "systemd"}


async def answers(client: Client, server: Launched, *, within_s: float) -> None:
    """Return once it says that it is ready; BackendError where it ends, or takes longer."""
    until_s = time.monotonic() + within_s
    while not await _is_ready(client):
        if (ended := server.why_ended()) is not None:
            raise ended
        if time.monotonic() > until_s:
            raise BackendError(
                f"the server was not ready within {within_s:g} s (openai.launch.ready_timeout_s)",
                hint=server.last_lines(),
            )
        await asyncio.sleep(_LOOK_S)


async def _is_ready(client: Client) -> bool:
    """By /health, or where that is no page by the list of models."""
    with suppress(UnreachableError):
        status, _, _ = await client.get(f"{client.root}/health")
        if status == 404:
            status, _, _ = await client.get(f"{client.api}/models")
        return status < 400 or status in {401, 403}
    return False


async def facts_of(client: Client, server: Launched | None) -> SessionFacts:
    """What is known of the server before the first request. One that llem started is below the worker."""
    versions = {**installed_versions("aiohttp"), **await _server(client)}
    if server is not None:
        return SessionFacts("server of this run", {"command": list(server.command)}, versions)
    pids, why = listeners(client.api)
    return SessionFacts(
        device=f"server at {client.api}",
        arguments={"base_url": client.api},
        versions=versions,
        pids=pids,
        why_unmetered=why,
        server=_named(client.api, pids),
    )


def _named(url: str, pids: Sequence[int]) -> str:
    """Which server that is: one that was started anew at the same URL is another one."""
    with suppress(psutil.Error, ValueError):
        since = min(psutil.Process(pid).create_time() for pid in pids)
        return f"{url} since {datetime.fromtimestamp(since, UTC).isoformat(timespec='milliseconds')}"
    return url


def listeners(url: str) -> tuple[tuple[int, ...], str | None]:
    """The processes of this host that listen there, or why there is none that can be metered."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    if not _is_here(host):
        return (), f"the server runs on {host}, and nobody here reads the power of that host"
    found: dict[int, str] = {}
    for connection in _listening(port):
        with suppress(psutil.Error):
            found[connection] = psutil.Process(connection).name()
    pids = [pid for pid, name in found.items() if name not in _FORWARDERS]
    if pids:
        return tuple(dict.fromkeys(_launcher(pid) for pid in pids)), None
    if found:
        name = next(iter(found.values()))
        return (), f"{name} listens on port {port} of this host, and whom it forwards to is not known"
    return (), f"which process listens on port {port} can't be seen by this user"


def _launcher(pid: int) -> int:
    """The leader of its process group where that started it: the processes that compute may be the listener's
    siblings. A shell may have started other things too.
    """
    with suppress(psutil.Error, OSError):
        leader = psutil.Process(os.getpgid(pid))
        above = {one.pid for one in psutil.Process(pid).parents()}
        if leader.pid in above and leader.name() not in _SHELLS and leader not in psutil.Process().parents():
            return leader.pid
    return pid


def _is_here(host: str) -> bool:
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    with suppress(OSError):
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        return all(address in own or address.startswith("127.") for address in found)
    return False


def _listening(port: int) -> set[int]:
    with suppress(psutil.Error):
        return {
            one.pid
            for one in psutil.net_connections(kind="tcp")
            if one.status == psutil.CONN_LISTEN
            and one.laddr
            and one.laddr.port == port
            and one.pid is not None
        }
    return set()


async def _server(client: Client) -> dict[str, str]:
    """The server's version, as far as it says."""
    with suppress(UnreachableError, ValueError, AttributeError):
        status, said, name = await client.get(f"{client.root}/version")
        version = json.loads(said).get("version") if status == 200 else None
        if isinstance(version, str):
            return {"server": version}
        return {"server": name} if name else {}
    return {}
