"""How does a GGUF become an ordinary model directory? The child process of `gguf.converted`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def main(source: Path, target: Path) -> None:
    """Write configuration, bf16 weights and tokenizer of the GGUF `source` into the directory `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, file = str(source.parent), source.name
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        quantization_config=GgufConfig(dequantize=True),  # without it the weights stay packed
        dtype=torch.bfloat16,
    )
    # Else the directory would ask for a quantiser when it is loaded.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(target)


def _end_with_parent() -> None:
    os.read(0, 1)  # sys.stdin would hold a lock that the interpreter's end trips over
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
