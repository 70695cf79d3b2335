"""Which requests can no engine answer?"""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request


def check_requests(requests: Sequence[Request], *, context: int | None) -> None:
    """BackendError for the first request without a prompt, or with more tokens than `context` holds.

    To be asked before anything is handed to an engine: past its position table a model indexes foreign
    memory, which on CUDA poisons the whole process, and engines cut, extend or drop what does not suit them.
    """
    for request in requests:
        if not request.prompt:
            raise BackendError(
                f"request {request.index} has no prompt tokens", hint="every prompt needs one token at least"
            )
        if context is not None and len(request.prompt) + request.max_output_tokens > context:
            raise BackendError(
                f"request {request.index} has {len(request.prompt)} prompt tokens and wants "
                f"{request.max_output_tokens} more, but the context holds {context} tokens",
                hint="lower max_input_tokens or max_output_tokens",
            )
