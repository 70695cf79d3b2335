"""Which work does the count of output tokens not show?"""

from __future__ import annotations

from llenergymeasure.config.models import ExperimentConfig


def guesses_ahead(config: ExperimentConfig) -> bool:
    """Whether a step verifies several guessed tokens, so that tokens come several at once."""
    if config.backend == "pytorch":
        asked = config.pytorch
        return asked.assistant_model is not None or asked.prompt_lookup_num_tokens is not None
    engine = {"vllm": config.vllm.engine, "tensorrt": config.tensorrt.engine}.get(config.backend, {})
    # The last two are vLLM's own short forms of parts of the first.
    names = ("speculative_config", "spec_method", "spec_model")
    return any(engine.get(name) is not None for name in names)


def why_other_work(config: ExperimentConfig) -> str | None:
    """Why another amount is computed than the tokens show, which the engine does not tell for each pass."""
    if guesses_ahead(config):
        return "tokens that are guessed ahead are thrown away in a number that the engine does not tell"
    beams = {
        "pytorch": config.pytorch.num_beams > 1,
        "vllm": config.vllm.beam_search is not None,
        "tensorrt": config.tensorrt.sampling.get("use_beam_search") is True,
    }
    if beams.get(config.backend, False):
        return "beam search throws beams away, after a number of steps that the engine does not tell"
    if config.backend == "vllm" and config.vllm.engine.get("enable_prefix_caching") is True:
        return "what two prompts begin with alike is computed once"
    return None
