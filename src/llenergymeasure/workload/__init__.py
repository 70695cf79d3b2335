"""What is the model asked to do?"""

from __future__ import annotations

from llenergymeasure.workload.formats import Prompt
from llenergymeasure.workload.prompts import Dataset, load_prompts

__all__ = ["Dataset", "Prompt", "load_prompts"]
