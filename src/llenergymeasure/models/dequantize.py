"""How does a GGUF become an ordinary model directory? The child process of `gguf.converted`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def main(source: Path, target: Path, only: str | None) -> None:
    """Write the tokenizer of the GGUF `source` into the directory `target`, and unless it is all that is
    wanted the configuration and the weights in bf16.
    """
    from transformers import AutoTokenizer

    folder, file = str(source.parent), source.name
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
    if only == "tokenizer":
        return
    import torch
    import transformers

    settings = {}
    if hasattr(transformers, "GgufConfig"):  # since 5.24 weights else stay packed
        settings["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.bfloat16, **settings
    )
    # Else the directory would ask for a quantiser when it is loaded.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(target)


def _end_with_parent() -> None:
    os.read(0, 1)  # sys.stdin would hold a lock that the interpreter's end trips over
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
