"""How does a GGUF become an ordinary model directory? The child process of `gguf.converted`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any


def main(source: Path, target: Path, only: str | None) -> None:
    """Write the tokenizer of the GGUF `source` into the directory `target`, and unless it is all that is
    wanted the configuration and the weights in bf16.
    """
    folder, file = str(source.parent), source.name
    _tokenizer_class().from_pretrained(folder, gguf_file=file).save_pretrained(target)
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


def _tokenizer_class() -> Any:
    """The class that transformers chooses, which it does with torch alone, or the general one without.

    Neither computes anything with torch. Without it the general class writes the same files, once the import
    of torch in the reader of GGUF metadata finds a module of names; transformers has noticed by then that it
    is not the real one.
    """
    import transformers

    if transformers.utils.is_torch_available():
        return transformers.AutoTokenizer
    sys.modules["torch"] = _Names("torch")
    return transformers.PreTrainedTokenizerFast


class _Names(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def _end_with_parent() -> None:
    os.read(0, 1)  # sys.stdin would hold a lock that the interpreter's end trips over
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
