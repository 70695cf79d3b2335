"""How does a workload run on a server: each request as the load wants it, each token counted as it comes?"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice

from pydantic import JsonValue

from llenergymeasure.backends import Observer
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.counters import difference, read_counts
from llenergymeasure.backends.openai.form import PATHS, Bodies, Form, forms
from llenergymeasure.backends.openai.load import RunningLoad, drive
from llenergymeasure.backends.openai.section import OpenaiSection
from llenergymeasure.backends.openai.stream import Reply
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import (
    Completion,
    FinishReason,
    Generation,
    Request,
    RequestCounts,
    ServerCounts,
    SessionFacts,
)
from llenergymeasure.workload.arrivals import Arrival, arrivals

# A server that has too much to do, or broke over one request: the next one may do.
_COUNTED = {408, 409, 425, 429}
# One that can't answer now says nothing about the form: it is asked so often, so long apart.
_BUSY = _COUNTED | {502, 503, 504}
_ASKS, _ASK_AGAIN_S = 5, 0.2
_ENDS_S = 0.2
# For so long a server that has answered may not have counted that yet.
_COUNTS_S = 0.5
_FINISHES: dict[str | None, FinishReason] = {"stop": "eos", "length": "length"}


class OpenaiSession:
    """A server that answers, and the form in which it takes requests."""

    def __init__(
        self,
        config: ExperimentConfig,
        options: OpenaiSection,
        *,
        client: Client,
        runner: asyncio.Runner,
        facts: SessionFacts,
        why_ended: Callable[[], BackendError | None] | None = None,
    ) -> None:
        """`why_ended` is asked of a server that can't be reached any more, where llem started it."""
        self._config = config
        self._options = options
        self._client = client
        self._runner = runner
        self._facts = facts
        self._why_ended = why_ended
        self._requests: Counter[str] = Counter(
            sent=0, answered=0, failed=0, cancelled=0, prompt_tokens=0, output_tokens=0
        )
        self._before = runner.run(read_counts(client))
        self._model = runner.run(self._served_model())
        self._bodies = Bodies(config, self._model, options.body)
        self._form: Form | None = None
        self._prompts = 1
        # By the prompt's index and the length that is wanted.
        self._ready: dict[tuple[int, int], tuple[tuple[int, ...], bytes]] = {}

    def agree(self, requests: Sequence[Request]) -> None:
        """Find out, by a first real answer, in which form the server takes requests, and put all into it.

        The tokenizer is loaded here too: it takes seconds, in which a load could send and read nothing.
        """
        self._form = self._runner.run(self._agreed(replace(requests[0], max_output_tokens=1)))
        self._bodies.load_tokenizer()
        self._prompts = len(requests)
        for request in requests:
            self._body(request)

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """Each is sent when the load wants it (without one: when the one before it is answered).

        A request that fails counts as one, and is not sent again. BackendError where the server is gone, or
        refuses what the next request would ask for too, and where every request fails.
        """
        load = self._config.load or LoadConfig()
        plan = islice(arrivals(load, requests, seed=self._config.random_seed), len(requests))
        replies: dict[int, tuple[Reply, int]] = {}

        async def send(arrival: Arrival, due_ns: int) -> None:
            reply = Reply(time.monotonic_ns())
            replies[arrival.number] = reply, due_ns
            await self._post(arrival.request, reply, observe)

        self._runner.run(drive(load, plan, send))
        both = [(request, *replies[at]) for at, request in enumerate(requests)]
        done = tuple(
            replace(
                self._completion(request, reply, due_ns), local_output_tokens=self._bodies.count(reply.text)
            )
            for request, reply, due_ns in both
        )
        if all(one.finish == "error" for one in done):
            # Where nobody is there any more, that is the reason.
            self._runner.run(self._served())
            raise BackendError(
                f"all {len(done)} requests failed; the first: {both[0][1].failure}",
                hint="the server's own log says more",
            )
        return Generation(done, texts=tuple(reply.answer for _, reply, _ in both))

    def serve(self, plan: Iterator[Arrival], observe: Observer) -> AbstractContextManager[RunningLoad]:
        """As `generate`, for as long as it is wanted."""
        load = self._config.load
        assert load is not None, "a stream is what a load asks for"
        return RunningLoad(
            load,
            plan,
            loop=self._runner.get_loop(),
            post=lambda arrival, reply: self._post(arrival.request, reply, observe),
            settle=self._settle,
            count=self._bodies.count,
        ).running()

    def synchronize(self) -> None:
        """Nothing is on its way: a walk waits for the last answer."""

    def facts(self) -> SessionFacts:
        options, form = self._options, self._form
        arguments: dict[str, JsonValue] = {
            "api": options.api,
            "model": self._model,
            "prompts": None if form is None else form.prompts,
            "lengths": None if form is None else form.lengths,
            **options.body,
        }
        return replace(
            self._facts,
            arguments={**self._facts.arguments, **arguments},
            requests=self.account(),
            counted=self._runner.run(self._counted()),
        )

    def account(self) -> RequestCounts:
        return RequestCounts(**self._requests)

    def reset_peak(self) -> None:
        """A server keeps its peak of memory to itself."""

    async def _post(self, request: Request, reply: Reply, observe: Observer) -> None:
        observe.batch([request], reply.sent_ns)
        await self._send(request, self._body(request), reply)
        status = reply.status
        # Else the server would also refuse the next request.
        if status is not None and status < 500 and status not in _COUNTED:
            raise self._refusal(reply)

    def _body(self, request: Request) -> bytes:
        """Made once: of the workload's own prompts, before anything is measured."""
        key = request.index, request.max_output_tokens
        prompt, body = self._ready.get(key, (None, b""))
        if prompt is not request.prompt:
            assert self._form is not None, "a form was agreed on"
            body = self._bodies.body(self._form, request)
            self._ready[key] = request.prompt, body
        return body

    async def _send(self, request: Request, body: bytes, reply: Reply) -> None:
        """BackendError where the server can't be reached. Whatever happens, the reply says it, and the
        request is accounted for.
        """
        self._requests["sent"] += 1
        outcome = "cancelled"
        try:
            await self._client.post(PATHS[self._options.api], body, reply)
            outcome = "answered" if reply.failure is None else "failed"
        except BackendError as error:
            outcome = "failed"
            reply.fail(error.message, time.monotonic_ns())
            raise await self._because(error) from None
        finally:
            self._requests[outcome] += 1
            if outcome == "cancelled":
                reply.fail(outcome, time.monotonic_ns())
            self._requests["prompt_tokens"] += self._prompt_tokens(request, reply)
            self._requests["output_tokens"] += self._output(request, reply)[1]

    async def _counted(self) -> ServerCounts:
        """What the server has counted since there was this session."""
        until_s = time.monotonic() + _COUNTS_S
        while True:
            counted = difference(self._before, await read_counts(self._client))
            is_behind = (counted.requests is not None and counted.requests < self._requests["answered"]) or (
                counted.output_tokens is not None and counted.output_tokens < self._requests["output_tokens"]
            )
            if not is_behind or time.monotonic() > until_s:
                return counted
            await asyncio.sleep(_COUNTS_S / 10)

    async def _because(self, error: BackendError) -> BackendError:
        if self._why_ended is None:
            return error
        # Its sockets are closed a moment before it has ended.
        await asyncio.sleep(_ENDS_S)
        why = self._why_ended()
        return error if why is None else BackendError(f"{error.message}: {why.message}", hint=why.hint)

    def _settle(self, arrival: Arrival, reply: Reply, due_ns: int) -> Completion:
        return self._completion(arrival.request, reply, due_ns, walk=arrival.number // self._prompts)

    def _completion(self, request: Request, reply: Reply, due_ns: int, *, walk: int = 0) -> Completion:
        finish, output = self._output(request, reply)
        return Completion(
            index=request.index,
            walk=walk,
            batch=0,
            prompt_tokens=self._prompt_tokens(request, reply),
            output_tokens=output,
            t_scheduled_ns=due_ns,
            t_sent_ns=reply.sent_ns,
            t_first_ns=reply.first_ns,
            t_end_ns=reply.end_ns,
            finish=finish,
        )

    def _prompt_tokens(self, request: Request, reply: Reply) -> int:
        """By the server's count, else llem's; none where it failed before its first token."""
        counted = reply.count("prompt_tokens")
        if counted is not None:
            return counted
        return 0 if reply.failure is not None and reply.first_ns is None else len(request.prompt)

    def _output(self, request: Request, reply: Reply) -> tuple[FinishReason, int]:
        """Why it ended, and its tokens: by the server's count, else the limit where it says that it was
        reached, else by the model's tokenizer, else one for each piece of text.
        """
        counted = reply.count("completion_tokens")
        if counted is None and reply.finish == "length":
            counted = request.max_output_tokens
        if counted is None:
            counted = self._bodies.count(reply.text)
        if counted is None:
            counted = len(reply.texts)
        if reply.failure is not None:
            return "error", counted
        by_length: FinishReason = "length" if counted >= request.max_output_tokens else "eos"
        return _FINISHES.get(reply.finish, by_length), counted

    async def _served_model(self) -> str:
        """The name to ask for. BackendError where the server has several and none was chosen."""
        wanted = self._options.model
        served = await self._served()
        if wanted is None and len(served) == 1:
            return served[0]
        if wanted is None and self._config.model in served:
            return self._config.model
        if wanted is None and served:
            raise BackendError(
                f"the server has {len(served)} models, and none is chosen: {', '.join(served)}",
                hint=f"--set openai.model={served[0]}",
            )
        return wanted or self._config.model

    async def _served(self) -> list[str]:
        """The names of the models; none where the server does not list them."""
        status, said, _ = await self._client.get(f"{self._client.api}/models")
        if status in {401, 403}:
            raise self._key_refusal()
        try:
            return [str(one["id"]) for one in json.loads(said)["data"]] if status == 200 else []
        except (ValueError, KeyError, TypeError):
            return []

    async def _agreed(self, request: Request) -> Form:
        last: Reply | None = None
        for form in forms(self._config, is_chat=self._options.api == "chat"):
            last = await self._asked(request, form)
            counted = last.count("prompt_tokens")
            if form.prompts == "ids" and counted not in {None, len(request.prompt)}:
                # It took the ids for something else.
                continue
            if last.failure is None:
                return form
            # Servers refuse a form with 400 or 422, and llama_cpp.server with 500.
            if last.status in {None, 401, 403, 404} | _BUSY:
                break
        assert last is not None, "there is a form at least"
        raise await self._explained(last)

    async def _asked(self, request: Request, form: Form) -> Reply:
        """The last reply of a server that may have too much to do for some of them."""
        body = self._bodies.body(form, request)
        for pause_s in (*(_ASK_AGAIN_S,) * (_ASKS - 1), None):
            reply = Reply(time.monotonic_ns())
            await self._send(request, body, reply)
            if reply.status not in _BUSY or pause_s is None:
                break
            await asyncio.sleep(pause_s)
        return reply

    async def _explained(self, reply: Reply) -> BackendError:
        if reply.status == 404:
            served = await self._served()
            if served and self._model not in served:
                return BackendError(
                    f"the server has no model {self._model!r}; it serves {', '.join(served)}",
                    hint=f"--set openai.model={served[0]}",
                )
            return BackendError(
                f"the server has no {PATHS[self._options.api]} below openai.base_url: {reply.failure}",
                hint="check the path (it usually ends in /v1) and openai.api",
            )
        return self._refusal(reply)

    def _refusal(self, reply: Reply) -> BackendError:
        if reply.status in {401, 403}:
            return self._key_refusal()
        return BackendError(f"the server refuses requests: {reply.failure}")

    def _key_refusal(self) -> BackendError:
        name = self._options.key_variable
        given = bool(os.environ.get(name, "").strip())
        return BackendError(
            f"the server does not accept the API key in {name}" if given else "the server wants an API key",
            hint=f"set the environment variable {name} to its key (openai.key_variable names another one)",
        )
