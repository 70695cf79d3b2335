"""How is each other tool started on the same load, unmodified and in an environment of its own?"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from llenergymeasure.models.resolve import resolve, weights_path

# Torch through its CPU build, which guidellm would pull gigabytes of CUDA without.
REQUIREMENTS = {
    "guidellm": "torch==2.13.0 guidellm==0.8.0",
    "aiperf": "aiperf==0.13.0",
    "aiohttp": f"aiohttp=={version('aiohttp')}",
}
_PROMPT = "word " * 32
_TOKENS = 8


def guidellm(python: Path, url: str, folder: Path, *, users: int, requests: int) -> Sequence[str]:
    data = folder / "guidellm.json"
    rows = [{"prompt": _PROMPT, "output_tokens_count": _TOKENS}] * requests
    data.write_text(json.dumps(rows), encoding="utf-8")
    return (
        str(python.parent / "guidellm"),
        "run",
        *("--backend", f"kind=openai_http,target={url},model=stub"),
        *("--profile", f"kind=concurrent,streams={users}"),
        *("--constraint", f"kind=max_requests,count={requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={_tokenizer()}"),
        *("--data", f"kind=json_file,path={data}"),
        *("--output", "kind=json,path=guidellm-out.json"),
        "--disable-console",
    )


def aiperf(python: Path, url: str, folder: Path, *, users: int, requests: int) -> Sequence[str]:
    data = folder / "aiperf.jsonl"
    data.write_text(f"{json.dumps({'text': _PROMPT})}\n" * users, encoding="utf-8")
    return (
        str(python.parent / "aiperf"),
        "profile",
        *("-m", "stub", "-u", url, "--endpoint-type", "completions", "--streaming"),
        *("--tokenizer", _tokenizer(), "--use-server-token-count", "--use-legacy-max-tokens"),
        *("--input-file", str(data), "--custom-dataset-type", "single_turn"),
        *("--extra-inputs", f"max_tokens:{_TOKENS}", "--extra-inputs", "ignore_eos:true"),
        *("--concurrency", str(users), "--request-count", str(requests)),
        *("--ui", "simple", "--output-artifact-dir", str(folder / "aiperf")),
    )


COMMANDS = {"guidellm": guidellm, "aiperf": aiperf}


def environ() -> dict[str, str]:
    """Without llem's own packages, which are not theirs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _tokenizer() -> str:
    """A directory, so that no hub is asked."""
    return str(weights_path(resolve("smollm2-135m")))
