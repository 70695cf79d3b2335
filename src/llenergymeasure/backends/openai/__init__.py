"""How does a workload run on any server of the OpenAI API?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from llenergymeasure.backends import Refusal, Standing, why_decided, why_missing
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.form import DECIDED
from llenergymeasure.backends.openai.launch import Launched, launched, why_not_launched
from llenergymeasure.backends.openai.place import answers, facts_of
from llenergymeasure.backends.openai.section import OpenaiSection
from llenergymeasure.backends.openai.session import OpenaiSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.workload.prepared import prepared


class OpenaiBackend:
    """The server stays as it is: what it keeps from one prompt to the next is its own affair, and named in
    the arguments in force as far as it says.
    """

    section = OpenaiSection

    def why_unavailable(self) -> str | None:
        return why_missing("openai", "aiohttp", "orjson")

    def why_refused(self, config: ExperimentConfig) -> Refusal | None:
        options, decoder = _options(config), config.decoder
        if options.base_url is None and options.launch is None:
            return Refusal(
                "no server is named",
                "--set openai.base_url=http://127.0.0.1:8000/v1, where it listens, or "
                "--set openai.launch.engine=vllm, to start one",
            )
        if options.launch is not None and (why := why_not_launched(config, options.launch)):
            return why
        for name, is_set in (
            ("top_k", decoder.top_k != 0),
            ("repetition_penalty", decoder.repetition_penalty != 1),
        ):
            if is_set:
                return Refusal(
                    f"decoder.{name} has no field in the OpenAI API",
                    f"take it out, and name it as this server does in openai.body, such as "
                    f"--set openai.body.{name}={getattr(decoder, name)}",
                )
        is_trace = config.load is not None and config.load.trace is not None
        if options.api == "chat" and (is_trace or config.dataset.name == "synthetic"):
            return Refusal(
                "synthetic prompts and those of a trace are token ids, and the chat API takes messages",
                "--set openai.api=completions, or another dataset",
            )
        if options.api == "chat" and config.dataset.chat_template == "off":
            return Refusal(
                "dataset.chat_template is off, and the chat API always applies the server's template",
                "--set openai.api=completions",
            )
        return why_decided("openai.body", options.body, DECIDED)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[OpenaiSession]:
        options = _options(config)
        requests = prepared(config).workload.requests
        key = _key(options)
        with ExitStack() as stack:
            runner = stack.enter_context(asyncio.Runner())
            server, base_url = None, options.base_url
            if options.launch is not None:
                server = stack.enter_context(launched(config, options.launch, base_url))
                base_url = server.base_url
            assert base_url is not None, "a configuration without one was refused"
            client = Client(base_url, key=key, request_timeout_s=options.request_timeout_s)
            runner.run(client.__aenter__())
            stack.callback(lambda: runner.run(client.__aexit__()))
            if server is not None and options.launch is not None:
                runner.run(answers(client, server, within_s=options.launch.ready_timeout_s))
            facts = runner.run(facts_of(client, server))
            session = OpenaiSession(
                config,
                options,
                client=client,
                runner=runner,
                facts=facts,
                why_ended=None if server is None else server.why_ended,
            )
            session.agree(requests)
            yield session

    @contextmanager
    def standing(self, config: ExperimentConfig) -> Iterator[Standing]:
        """A launched server, once it answers; runs use it by its URL."""
        options = _options(config)
        assert options.launch is not None, "asked of those that are launched"
        with launched(config, options.launch, options.base_url) as server:
            asyncio.run(_up(server, options, options.launch.ready_timeout_s))
            yield Standing({"base_url": server.base_url, "launch": None}, server.why_ended)


async def _up(server: Launched, options: OpenaiSection, within_s: float) -> None:
    key = _key(options)
    async with Client(server.base_url, key=key, request_timeout_s=options.request_timeout_s) as client:
        await answers(client, server, within_s=within_s)


def _options(config: ExperimentConfig) -> OpenaiSection:
    options = config.options
    assert isinstance(options, OpenaiSection), "the backend brings this section"
    return options


def _key(options: OpenaiSection) -> str | None:
    """From the environment; the line break that a file of it ends with is none of it."""
    key = os.environ.get(options.key_variable, "").strip()
    if not key.isprintable():
        raise BackendError(
            f"the API key in {options.key_variable} holds a line break or another control character",
            hint=f"set {options.key_variable} to the key alone",
        )
    return key or None
