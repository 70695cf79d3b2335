"""How does the worker of a run live in a container of this host's docker or podman?

The command is a value that `command` makes; `launcher` makes what it needs and takes it away again.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.config.runner import RunnerConfig
from llenergymeasure.energy.meters.gpu_choice import visible_gpus, why_unsure
from llenergymeasure.exceptions import ConfigError, PreFlightError
from llenergymeasure.measure.launch import WORKER_MODULE, Launch
from llenergymeasure.models.hub import hub_cache
from llenergymeasure.records import GpuFacts

Engine: TypeAlias = Literal["docker", "podman"]
ENGINES: tuple[Engine, ...] = ("docker", "podman")
ANSWER_S = 30.0
# What of the host's environment a worker needs; the first two are secrets.
PASSED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Found:
    """The engine that answers, and the identity of the image that it has."""

    engine: Engine
    image_id: str


@dataclass(frozen=True, slots=True)
class Container:
    """One container: `gpus` by UUID, `user` as user and group id, `env_file` with every variable it gets."""

    engine: Engine
    image: str
    name: str
    gpus: tuple[str, ...]
    mounts: tuple[Mount, ...]
    env_file: Path
    workdir: Path
    user: tuple[int, int]
    network: Literal["host", "none"]


def command(container: Container) -> list[str]:
    """The client's command line, which holds no secret.

    `--pid=host`: the worker's pids are those of this host, by which its processor time and its GPUs are
    found. There is no `--init` with it: docker would ignore it, podman refuse it, and a worker is not pid 1.
    `--log-driver=none`: the protocol goes through the client alone, not through a file that the daemon
    writes while power is measured.
    """
    user, group = container.user
    line = [container.engine, "run", "--rm", "--interactive", "--pull=never", f"--name={container.name}"]
    line += ["--pid=host", "--ipc=host", f"--network={container.network}", "--log-driver=none"]
    # Files of the host are mounted as they are; relabelling a home folder for SELinux would change them.
    line += [f"--user={user}:{group}", "--security-opt=label=disable"]
    if container.engine == "podman" and user != 0:
        line.append("--userns=keep-id")
    line += _gpu_options(container)
    for mount in container.mounts:
        line.append(f"--mount={_mount_option(mount)}")
    line += [f"--workdir={container.workdir}", f"--env-file={container.env_file}"]
    # Images of engines start a server by themselves, and some know python by no other name.
    return [*line, "--entrypoint=python3", container.image, "-m", WORKER_MODULE]


def find(runner: RunnerConfig) -> Found:
    """The engine to use and the image's identity; PreFlightError with the one reason why there is none."""
    candidates = ENGINES if runner.engine == "auto" else (runner.engine,)
    silent: list[str] = []
    for engine in candidates:
        why = _why_silent(engine)
        if why is None:
            return Found(engine, _image_id(engine, runner.image or ""))
        silent.append(why)
    raise PreFlightError(
        f"no container can be started: {'; '.join(silent)}",
        hint="install docker or podman, or start its daemon; or --set runner.kind=local",
    )


def look(config: ExperimentConfig) -> Found:
    """`find`, after everything else that would keep a container of this configuration from starting.

    ConfigError for what no host could give it, PreFlightError for what this one can't.
    """
    mounts(config)
    environment(config)
    return find(config.runner)


def container_gpus(config: ExperimentConfig, gpus: Sequence[GpuFacts]) -> tuple[str, ...]:
    """UUIDs of those of `gpus`, this host's, that CUDA_VISIBLE_DEVICES leaves; instances of MIG go by their
    own names, and the simulated device by none.

    PreFlightError where an entry can't be matched to a board.
    """
    if config.engine.is_simulated:
        return ()
    spec, uuids = os.environ.get("CUDA_VISIBLE_DEVICES"), [gpu.uuid for gpu in gpus]
    if spec is not None and spec.startswith("MIG"):
        return tuple(part.strip() for part in spec.split(","))
    pci_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if why := why_unsure(spec, uuids, pci_order=pci_order):
        raise PreFlightError(why)
    return tuple(uuids[index] for index in visible_gpus(spec, uuids, pci_order=pci_order))


def launcher(config: ExperimentConfig, gpus: Sequence[GpuFacts]) -> Callable[[], Launch]:
    """What starts a container for one worker, each time a new one; `gpus` are this host's."""

    def launch() -> Launch:
        runner = config.runner
        container = Container(
            engine=find(runner).engine,
            image=runner.image or "",
            name=f"llem-{secrets.token_hex(6)}",
            gpus=container_gpus(config, gpus),
            mounts=mounts(config),
            env_file=_written(environment(config)),
            workdir=Path.cwd(),
            user=(os.getuid(), os.getgid()),
            network=runner.network,
        )
        return Launch(
            command=tuple(command(container)),
            greeted=lambda: container.env_file.unlink(missing_ok=True),
            ended=lambda: _remove(container),
        )

    return launch


def environment(config: ExperimentConfig) -> dict[str, str]:
    """The variables of the worker. ConfigError for one whose value an env file can't hold."""
    for name in config.runner.env:
        if name not in os.environ:
            raise ConfigError(
                f"runner.env names {name}, which is not set here", hint="export it, or remove it"
            )
    names = dict.fromkeys((*PASSED, *config.runner.env))
    passed = {name: os.environ[name] for name in names if name in os.environ}
    if config.runner.network == "none":
        passed["HF_HUB_OFFLINE"] = "1"
    for name, value in passed.items():
        if "\n" in value:
            raise ConfigError(f"{name} has a line break in it, which can't be handed to a container")
    own = {"HOME": str(Path.home()), "LLEM_CACHE_DIR": str(cache_dir()), "HF_HUB_CACHE": str(hub_cache())}
    # The user id has no name in the image, and compilers ask for one.
    return {"USER": "llem", **own, **passed}


def _gpu_options(container: Container) -> list[str]:
    if not container.gpus:
        return []
    if container.engine == "podman":
        return [f"--device=nvidia.com/gpu={uuid}" for uuid in container.gpus]
    # docker reads the value as a line of CSV, whose commas would part the devices without the quotes.
    return [f'--gpus="device={",".join(container.gpus)}"']


def _mount_option(mount: Mount) -> str:
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if not mount.writable:
        fields.append("readonly")
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _why_silent(engine: Engine) -> str | None:
    if shutil.which(engine) is None:
        return f"{engine} is not installed"
    try:
        asked = _ask(engine, "info")
    except subprocess.TimeoutExpired:
        return f"{engine} does not answer within {ANSWER_S:.0f} s"
    if asked.returncode == 0:
        return None
    said = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
    return f"{engine} does not work ({said[-1]})"


def _image_id(engine: Engine, image: str) -> str:
    asked = _ask(engine, "image", "inspect", "--format={{.Id}}", image)
    if asked.returncode != 0 or not asked.stdout.strip():
        raise PreFlightError(f"{engine} has no image {image!r}", hint=f"{engine} pull {image}")
    return asked.stdout.strip()


def _ask(engine: Engine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [engine, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
        # Ctrl-C is for llem alone, which then ends the container in its own order.
        start_new_session=True,
    )


def _remove(container: Container) -> str | None:
    """Kill and remove the container, whether it runs, was only made or is gone; why that failed, or None.

    A client that was killed leaves it running, hence this comes last in any case.
    """
    container.env_file.unlink(missing_ok=True)
    try:
        asked = _ask(container.engine, "rm", "--force", container.name)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    else:
        why = asked.stderr.strip()
        if asked.returncode == 0 or "no such container" in why.lower():
            return None
    return f"{container.engine} rm --force {container.name} failed: {why}"


def _written(variables: Mapping[str, str]) -> Path:
    """A file for nobody but this user, as mkstemp makes it."""
    handle, name = tempfile.mkstemp(prefix="llem-env-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.writelines(f"{key}={value}\n" for key, value in variables.items())
    return Path(name)


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: Path
    writable: bool = False


def mounts(config: ExperimentConfig) -> tuple[Mount, ...]:
    """Everything of this host that the worker sees, at the path that it has here.

    Its home is a folder of llem's own, which is kept, so that what engines compile is compiled once. The
    caches of models stay read-only: files are fetched on the host.
    """
    cache, home = cache_dir(), Path.home()
    found = {home: Mount(cache / "container-home", home, writable=True)}
    found[cache] = Mount(cache, cache, writable=True)
    if hub_cache().is_dir():
        found[hub_cache()] = Mount(hub_cache(), hub_cache())
    for path in _named_files(config):
        found[path] = Mount(path, path)
    for text in config.runner.mounts:
        source, target, *rw = text.split(":")
        where = Path(source).expanduser().absolute()
        if not where.exists():
            raise ConfigError(f"runner.mounts: {where} does not exist")
        found[Path(target)] = Mount(where, Path(target), writable=rw == ["rw"])
    _make_mount_points(found[home], found)
    return tuple(found.values())


def _named_files(config: ExperimentConfig) -> Iterator[Path]:
    """What the configuration names on this disk, wherever in it: models, adapters, engines, prompts."""
    described = config.model_dump(mode="json", exclude={"output_dir", "runner"})
    for _, text in leaves(described, lists=True):
        name = text.removeprefix("random:") if isinstance(text, str) else ""
        if "/" not in name and "." not in name:
            continue
        path = Path(name).expanduser().absolute()
        if path != Path("/") and path.exists():
            yield path


def _make_mount_points(home: Mount, found: Mapping[Path, Mount]) -> None:
    """Folders for what is mounted inside the home: docker would make them as root, closed to the worker."""
    home.source.mkdir(parents=True, exist_ok=True)
    if Path.cwd().is_relative_to(home.target):
        (home.source / Path.cwd().relative_to(home.target)).mkdir(parents=True, exist_ok=True)
    for target, mount in found.items():
        if target == home.target or not target.is_relative_to(home.target):
            continue
        point = home.source / target.relative_to(home.target)
        if mount.source.is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
