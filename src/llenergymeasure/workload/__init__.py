"""What is the model asked to do?"""

from __future__ import annotations

from llenergymeasure.workload.prompts import Prompt, load_prompts
from llenergymeasure.workload.requests import Workload, as_requests, build_requests, workload_hash

__all__ = ["Prompt", "Workload", "as_requests", "build_requests", "load_prompts", "workload_hash"]
