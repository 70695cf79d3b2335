"""What do TensorRT-LLM's outputs say of lengths, ends and times?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Completion, FinishReason, Request

_FINISHES: dict[str, FinishReason] = {"stop": "eos", "length": "length"}
# The engine's times are whole microseconds of the clock that ours are nanoseconds of.
_RESOLUTION_NS = 1_000


def completion(
    request: Request, output: Any, *, batch: int, sent_ns: int, done_ns: int, end_ids: Sequence[int]
) -> tuple[Completion, tuple[int, ...]]:
    """What became of a request whose batch was handed over at `sent_ns` and was back at `done_ns`, and its
    token ids, end-of-sequence included.

    BackendError where the engine gave it up.
    """
    ids = tuple(int(token) for token in output.token_ids)
    finish = _FINISHES.get(output.finish_reason)
    if finish is None:
        raise BackendError(f"TensorRT-LLM ended request {request.index} with {output.finish_reason!r}")
    # Whether the end token is listed differs between its engines; it was generated all the same.
    if finish == "eos" and end_ids and (not ids or ids[-1] not in end_ids) and not output.stop_reason:
        ids = (*ids, end_ids[0])
    first_ns, last_ns = _times(output, sent_ns=sent_ns, done_ns=done_ns)
    made = Completion(
        index=request.index,
        walk=0,
        batch=batch,
        prompt_tokens=len(request.prompt),
        output_tokens=len(ids),
        t_scheduled_ns=sent_ns,
        t_sent_ns=sent_ns,
        t_first_ns=first_ns,
        t_end_ns=done_ns if last_ns is None else last_ns,
        finish=finish,
    )
    return made, ids


def _times(output: Any, *, sent_ns: int, done_ns: int) -> tuple[int | None, int | None]:
    """When the first and the last token were there, on the monotonic clock; None where that is not told.

    The engine reads std::chrono::steady_clock, which is CLOCK_MONOTONIC on Linux, and its bindings give the
    time since that clock's origin as a timedelta. Times outside the batch are from some other clock.
    """
    metrics = output.request_perf_metrics
    if metrics is None:
        return None, None
    first_ns = _ns(metrics.timing_metrics.first_token_time)
    last_ns = _ns(metrics.timing_metrics.last_token_time)
    if not sent_ns - _RESOLUTION_NS <= first_ns <= last_ns <= done_ns + _RESOLUTION_NS:
        return None, None
    return first_ns, last_ns


def _ns(since_origin: timedelta) -> int:
    return since_origin // timedelta(microseconds=1) * 1_000
