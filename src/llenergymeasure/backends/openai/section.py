"""What can be asked of a server of the OpenAI API?"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from llenergymeasure.config.engines import EngineSection, Traits
from llenergymeasure.config.secrets import without_secrets
from llenergymeasure.config.section import Arguments, PositiveSeconds, Section


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        # It is stored with every result.
        raise ValueError("it must hold no user, password or query; a key comes from the environment")
    return url.rstrip("/")


def _word(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


# What YAML reads as a number.
_Word: TypeAlias = Annotated[str, BeforeValidator(_word)]


class LaunchConfig(Section):
    """A server that llem starts for each run and ends after it; in a study for all loads of a repeat."""

    engine: Literal["vllm", "llamacpp", "transformers"] | None = Field(
        default=None, description="vllm serve, llama_cpp.server or transformers serve, on a free port"
    )
    command: tuple[_Word, ...] | None = Field(
        default=None,
        min_length=1,
        description="any other server's words, in which {port} is a free port and {model} the model's path",
    )
    python: str | None = Field(
        default=None,
        min_length=1,
        description="interpreter of the environment that engine is installed in; llem's own when absent",
    )
    options: Arguments = Field(
        default_factory=dict, description="further options of engine, by the names of its command line"
    )
    env: Annotated[dict[str, _Word], AfterValidator(without_secrets)] = Field(
        default_factory=dict, description="environment variables of the server"
    )
    ready_timeout_s: PositiveSeconds = Field(
        default=600.0, description="it must be ready to answer within this"
    )


# What a server is not told when it starts.
_OF_REQUESTS = frozenset({"api", "model", "body", "key_variable", "request_timeout_s"})


class OpenaiSection(EngineSection):
    """A server of the OpenAI API: one that runs, by its URL, or one that llem starts."""

    base_url: Annotated[str, AfterValidator(_plain_url)] | None = Field(
        default=None, description="where the server answers, such as http://127.0.0.1:8000/v1"
    )
    launch: LaunchConfig | None = Field(
        default=None, description="a server to start; none when absent, and base_url names one"
    )
    api: Literal["chat", "completions"] = Field(
        default="completions",
        description="completions takes prompts as token ids where the server does; chat takes messages, "
        "which the server puts into its own template",
    )
    model: str | None = Field(
        default=None, min_length=1, description="its name on the server; the one served when absent"
    )
    body: Arguments = Field(
        default_factory=dict, description="further fields of each request, by the server's own names"
    )
    key_variable: str = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable that holds the key, where the server wants one",
    )
    request_timeout_s: PositiveSeconds = Field(
        default=300.0, description="a request fails once nothing came for so long"
    )

    @property
    def traits(self) -> Traits:
        return Traits(
            takes=frozenset({"load"}),
            batch_size=1,
            why_no_batch_size=(
                "a server forms its own batches",
                "say how many users it has: --set load.concurrency=8",
            ),
            forms_batches=True,
            gpus_per_model=None,
            standing_beside=None if self.launch is None else _OF_REQUESTS,
        )
