"""Where does the process that runs the model live?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from llenergymeasure.config.section import Section


class RunnerConfig(Section):
    """Where the process that runs the model lives: on this host as it is, or in a container on it."""

    kind: Literal["local", "container"] = Field(
        default="local", description="local: this host as it is; container: an image on it"
    )
    image: str | None = Field(
        default=None, description="image of the container, which holds the engine and the same llem as here"
    )
    engine: Literal["auto", "docker", "podman"] = Field(
        default="auto", description="auto takes docker where it answers, else podman"
    )
    mounts: tuple[str, ...] = Field(
        default=(),
        description="further folders or files, as source:target or source:target:rw; read-only without rw",
    )
    env: tuple[str, ...] = Field(
        default=(), description="names of this host's variables that the container gets"
    )
    network: Literal["host", "none"] = Field(
        default="host", description="none keeps the engine from reaching anything, the model's hub included"
    )

    @field_validator("mounts")
    @classmethod
    def _mounts_read(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            match mount.split(":"):
                case [source, target] | [source, target, "rw"] if source and target.startswith("/"):
                    continue
            raise ValueError(f"{mount!r} is not a mount: write source:/target or source:/target:rw")
        return mounts

    @field_validator("env")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.isidentifier():
                # The value itself may be a secret, and would end up in every result.
                raise ValueError("env takes the names of variables, not their values")
        return names

    @model_validator(mode="after")
    def _image_in_force(self) -> RunnerConfig:
        if self.kind == "container" and not (self.image or "").strip():
            raise ValueError("runner.kind is container, but runner.image is empty; name the image to run")
        if self.kind == "local" and self != RunnerConfig.model_construct():
            raise ValueError("runner has options of a container, but runner.kind is local; make it container")
        return self
