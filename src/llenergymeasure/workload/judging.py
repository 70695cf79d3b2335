"""Which answers of a walk are right?

Run as a module it judges answers that are token ids, in a process of its own: the tokenizer takes memory and
starts threads, which the process that is measured must not hold.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TypeAlias

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Generation, Verdict
from llenergymeasure.workload.answers import is_right
from llenergymeasure.workload.formats import Reference
from llenergymeasure.workload.tokenizer import tokenized_model, tokenizer_for

# What a model said, as text or as token ids, and what it is judged by.
Said: TypeAlias = tuple[Reference, str | Sequence[int]]


def judge(
    config: ExperimentConfig, references: Sequence[Reference | None], walks: Sequence[Generation]
) -> list[Verdict | None]:
    """A verdict on each completion of these walks, in order; None on one that failed, has no reference, or of
    which the engine gives neither text nor ids. BackendError where the tokenizer can't be used.
    """
    places: list[tuple[int, Said]] = []
    verdicts: list[Verdict | None] = []
    for walk in walks:
        given = walk.texts or walk.output_ids or ()
        for at, done in enumerate(walk.completions):
            reference = references[done.index]
            said = given[at] if given else None
            if said is not None and reference is not None and done.finish != "error":
                places.append((len(verdicts), (reference, said)))
            verdicts.append(None)
    every = [one for _, one in places]
    is_light = all(isinstance(text, str) and one.matcher != "lm-eval" for one, text in every)
    is_here = is_light or config.engine.is_simulated
    found = list(_verdicts(config, every)) if is_here else _from_process(config, every)
    for (at, _), verdict in zip(places, found, strict=True):
        verdicts[at] = verdict
    return verdicts


def _verdicts(config: ExperimentConfig, said: Sequence[Said]) -> Iterator[Verdict]:
    tokenizer = None
    for reference, given in said:
        if isinstance(given, str):
            text = given
        else:
            tokenizer = tokenizer or tokenizer_for(config, tokenized_model(config))
            text = tokenizer.decode(given, special=False)
        kept = text if config.dataset.keep_answers else None
        yield Verdict(reference.matcher, is_right(text, reference), kept)


def _from_process(config: ExperimentConfig, said: Sequence[Said]) -> list[Verdict]:
    asked = {
        "config": config.model_dump(mode="json"),
        "said": [[asdict(reference), given] for reference, given in said],
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BackendError(
            f"the answers can't be judged: {last[0]}", hint="--set dataset.matcher=none measures without"
        )
    return [Verdict(**one) for one in json.loads(done.stdout)]


def main() -> None:
    """Answer the process of `judge`, and end with it."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG of linux/prctl.h.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    asked = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Libraries print.
    os.dup2(2, 1)
    config = ExperimentConfig.model_validate(asked["config"])
    said = [(Reference(one["matcher"], tuple(one["answers"])), given) for one, given in asked["said"]]
    json.dump([asdict(one) for one in _verdicts(config, said)], out)
    out.close()


if __name__ == "__main__":
    main()
