"""The adapter's own logic, with a stand-in for tensorrt_llm that takes only the names which that has."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import END, Package, RequestError, answer

from llenergymeasure.backends import load_backend
from llenergymeasure.config.loader import BATCH_SIZE, load_experiment_config
from llenergymeasure.config.models import ExperimentConfig, config_hash
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.measure.preflight import reasons_against, why_too_large
from llenergymeasure.records import Generation, Request
from llenergymeasure_tensorrt import TensorrtBackend
from llenergymeasure_tensorrt.refusals import why_unavailable
from llenergymeasure_tensorrt.section import TensorrtConfig
from llenergymeasure_tensorrt.session import end_ids


@dataclass
class Seen:
    """An observer that counts."""

    batches: int = 0

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        self.batches += 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint whose shape and end tokens are real and whose weights nobody reads."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "num_hidden_layers": 1,
                "hidden_size": 8,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "vocab_size": 32,
                "max_position_embeddings": 256,
                "eos_token_id": 3,
            }
        )
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, 9]}))
    save_file({"w": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def config(model: Path | str, **changes: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": str(model),
            "backend": "tensorrt",
            "n": 3,
            "max_input_tokens": 16,
            "max_output_tokens": 8,
            **changes,
        }
    )


def requests(*lengths: int, exact: bool = True, wanted: int = 8) -> list[Request]:
    return [
        Request(index, tuple(range(length)), max_output_tokens=wanted, exact=exact)
        for index, length in enumerate(lengths)
    ]


def backend(package: Package) -> TensorrtBackend:
    return TensorrtBackend(package, uuids=lambda count: tuple(f"GPU-{index}" for index in range(count)))


def walked(package: Package, asked: ExperimentConfig, *lengths: int, exact: bool = True) -> Generation:
    with backend(package).open(asked) as session:
        return session.generate(requests(*lengths, exact=exact), Seen())


def test_token_ids_go_in_as_they_are_and_lengths_come_out(model: Path) -> None:
    package = Package()
    made = walked(package, config(model), 5, 3, 4)
    assert package.prompts == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1, 2, 3]]
    assert [one.output_tokens for one in made.completions] == [8, 8, 8]
    assert [one.prompt_tokens for one in made.completions] == [5, 3, 4]
    assert {one.finish for one in made.completions} == {"length"}
    assert made.output_ids is not None
    assert [len(ids) for ids in made.output_ids] == [8, 8, 8]


def test_exact_ignores_the_end_and_sets_no_minimum(model: Path) -> None:
    package = Package()
    walked(package, config(model), 5)
    (parameters,) = package.parameters
    assert (parameters.max_tokens, parameters.ignore_eos, parameters.min_tokens) == (8, True, None)
    assert parameters.detokenize is False


def test_natural_ends_at_each_of_the_models_end_tokens(model: Path) -> None:
    package = Package()
    made = walked(package, config(model, output_length="natural"), 5, exact=False)
    (parameters,) = package.parameters
    assert (parameters.end_id, parameters.stop_token_ids) == (END, [9])
    assert parameters.include_stop_str_in_output, "the end token was generated, so it counts"
    assert made.output_ids is not None
    assert made.output_ids[0][-1] == END
    assert (made.completions[0].output_tokens, made.completions[0].finish) == (3, "eos")


def test_an_end_token_that_the_engine_leaves_out_counts_too(model: Path) -> None:
    def without_end(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
        return {"token_ids": [11, 12], "finish_reason": "stop"}

    asked = config(model, output_length="natural")
    made = walked(Package(answers=without_end), asked, 5, exact=False)
    assert made.completions[0].output_tokens == 3


def test_an_output_that_a_stop_string_ended_got_no_end_token(model: Path) -> None:
    def stopped(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
        return {"token_ids": [11, 12], "finish_reason": "stop", "stop_reason": "\n"}

    asked = config(model, output_length="natural", tensorrt={"sampling": {"stop": ["\n"]}})
    assert walked(Package(answers=stopped), asked, 5, exact=False).completions[0].output_tokens == 2


def test_first_and_last_times_are_the_engines(model: Path) -> None:
    (done,) = walked(Package(), config(model), 5).completions
    assert done.t_first_ns is not None
    assert done.t_sent_ns - 1000 <= done.t_first_ns < done.t_end_ns
    assert done.t_end_ns - done.t_first_ns >= 2_000_000 - 1000


@pytest.mark.parametrize("times", ["none", "another clock", "reversed"])
def test_times_that_can_not_be_trusted_are_none_and_said(model: Path, times: str) -> None:
    def answers(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
        made = answer(prompt, parameters)
        if times == "none":
            del made["first"]
        elif times == "another clock":
            made["first"] -= timedelta(days=1)
        else:
            made["first"], made["last"] = made["last"], made["first"]
        return made

    with backend(Package(answers=answers)).open(config(model)) as session:
        (done,) = session.generate(requests(5), Seen()).completions
        facts = session.facts()
    assert done.t_first_ns is None
    assert done.t_end_ns > done.t_sent_ns
    assert str(facts.arguments["request_times"]).startswith("of the batch")


def test_batches_are_handed_over_one_after_the_other(model: Path) -> None:
    seen = Seen()
    with backend(Package()).open(config(model, tensorrt={"batch_size": 2})) as session:
        made = session.generate(requests(5, 4, 3), seen)
    assert seen.batches == 2
    assert [one.batch for one in made.completions] == [0, 0, 1]
    assert made.completions[0].t_end_ns <= made.completions[2].t_sent_ns + 1000


def test_what_is_decided_reaches_the_engine(model: Path) -> None:
    package = Package()
    asked = config(model, precision="fp16", tensorrt={"batch_size": 2, "engine": {"tensor_parallel_size": 2}})
    with backend(package).open(asked) as session:
        (llm,) = package.llms
        facts = session.facts()
    assert llm.args.model == str(model)
    assert llm.args.dtype == "float16"
    assert (llm.args.max_batch_size, llm.args.max_input_len, llm.args.max_seq_len) == (2, 16, 24)
    assert llm.args.skip_tokenizer_init is True
    assert llm.args.kv_cache_config.enable_block_reuse is False
    assert facts.gpu_uuids == ("GPU-0", "GPU-1")
    assert facts.arguments["tensor_parallel_size"] == 2
    assert facts.arguments["engine"] == "pytorch"
    assert facts.versions["tensorrt_llm"] == "1.2.0"
    json.dumps(facts.arguments)


def test_reuse_of_cached_blocks_is_off_unless_it_is_asked_for(model: Path) -> None:
    for given, expected in (({"free_gpu_memory_fraction": 0.5}, False), ({"enable_block_reuse": True}, True)):
        package = Package()
        with backend(package).open(config(model, tensorrt={"engine": {"kv_cache_config": given}})):
            (llm,) = package.llms
        cache = llm.args.kv_cache_config
        assert cache.enable_block_reuse is expected
        assert cache.free_gpu_memory_fraction == given.get("free_gpu_memory_fraction")


@pytest.mark.parametrize(("precision", "algorithm"), [("int8", "W8A16"), ("int4", "W4A16")])
def test_integer_precision_is_made_where_an_engine_is_built(
    model: Path, precision: str, algorithm: str
) -> None:
    package = Package()
    asked = config(model, precision=precision, tensorrt={"engine": {"backend": "tensorrt"}})
    with backend(package).open(asked) as session:
        facts = session.facts()
    assert facts.arguments["quantization"] == algorithm
    assert facts.arguments["engine"] == "tensorrt"
    refused = backend(package).why_refused(config(model, precision=precision))
    assert refused is not None
    assert "does not quantise" in str(refused)


def test_quantisation_is_asked_for_by_the_engines_own_names(model: Path) -> None:
    package = Package()
    engine = {"backend": "tensorrt", "quant_config": {"quant_algo": "FP8"}}
    with backend(package).open(config(model, tensorrt={"engine": engine})) as session:
        assert session.facts().arguments["quantization"] == "FP8"


def built_engine(folder: Path, *, dtype: str = "bfloat16", max_seq_len: int = 64) -> Path:
    folder.mkdir()
    description = {
        "pretrained_config": {"dtype": dtype},
        "build_config": {"max_seq_len": max_seq_len, "max_input_len": 32},
    }
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "rank0.engine").write_bytes(b"")
    return folder


def test_a_built_engine_is_loaded_with_its_own_sizes_and_the_models_end_tokens(
    model: Path, tmp_path: Path
) -> None:
    package = Package()
    built = built_engine(tmp_path / "engine")
    asked = config(model, output_length="natural", tensorrt={"engine_dir": str(built)})
    assert backend(package).why_refused(asked) is None
    walked(package, asked, 5, exact=False)
    (llm,) = package.llms
    assert llm.args.model == str(built)
    assert (llm.args.max_seq_len, llm.args.dtype) == (None, "auto")
    assert package.parameters[0].end_id == END


@pytest.mark.parametrize(
    ("changes", "build", "says"),
    [
        ({}, {"dtype": "float16"}, "built for float16; precision bf16"),
        ({"max_output_tokens": 60}, {}, "max_seq_len of the engine is 64, but requests need 76"),
        ({"max_input_tokens": 40}, {}, "max_input_len of the engine is 32"),
    ],
)
def test_an_engine_that_is_built_for_something_else_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, object], build: dict[str, Any], says: str
) -> None:
    built = built_engine(tmp_path / "engine", **build)
    why = backend(Package()).why_refused(config(model, tensorrt={"engine_dir": str(built)}, **changes))
    assert why is not None
    assert says in str(why)


def test_a_folder_without_an_engine_is_refused(model: Path) -> None:
    why = backend(Package()).why_refused(config(model, tensorrt={"engine_dir": str(model)}))
    assert why is not None
    assert "holds no engine" in str(why)


@pytest.mark.parametrize(
    ("tensorrt", "field"),
    [
        ({"engine": {"dtype": "float16"}}, "precision"),
        ({"engine": {"model": "x"}}, "model"),
        ({"engine": {"max_seq_len": 20}}, "max_output_tokens"),
        ({"engine": {"build_config": {"max_input_len": 4}}}, "max_input_tokens"),
        ({"sampling": {"max_tokens": 3}}, "max_output_tokens"),
        ({"sampling": {"ignore_eos": False}}, "output_length"),
        ({"sampling": {"temperature": 1.0}}, "decoder.temperature"),
        ({"sampling": {"seed": 1}}, "random_seed"),
        ({"sampling": {"n": 2}}, "n (every prompt"),
        ({"sampling": {"stop": ["x"]}}, "output_length"),
    ],
)
def test_what_llem_decides_is_not_contradicted_in_silence(
    model: Path, tensorrt: dict[str, object], field: str
) -> None:
    asked = config(model, tensorrt=tensorrt)
    why = backend(Package()).why_refused(asked)
    assert why is not None
    assert field in str(why)
    with pytest.raises(ConfigError), backend(Package()).open(asked):
        pass


@pytest.mark.parametrize(
    ("tensorrt", "says", "hint"),
    [
        ({"engine": {"tensor_paralel_size": 2}}, "engine.tensor_paralel_size", "tensor_parallel_size"),
        ({"engine": {"kv_cache_config": {"block_reuse": True}}}, "kv_cache_config.block_reuse", "reuse"),
        ({"sampling": {"top_pp": 0.5}}, "sampling.top_pp", "top_p"),
    ],
)
def test_a_name_that_the_installed_version_lacks_gets_the_nearest(
    model: Path, tensorrt: dict[str, object], says: str, hint: str
) -> None:
    with (
        pytest.raises(ConfigError, match=says) as caught,
        backend(Package()).open(config(model, tensorrt=tensorrt)) as session,
    ):
        session.generate(requests(5), Seen())
    assert hint in str(caught.value.hint)


def test_an_argument_of_the_other_engine_is_unknown(model: Path) -> None:
    asked = config(model, tensorrt={"engine": {"fast_build": True}})
    with pytest.raises(ConfigError, match="fast_build"), backend(Package()).open(asked):
        pass
    built = config(model, tensorrt={"engine": {"fast_build": True, "backend": "tensorrt"}})
    with backend(Package()).open(built):
        pass


def test_greedy_and_sampled_decoding(model: Path) -> None:
    package = Package()
    walked(package, config(model), 5)
    sampled = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
    walked(package, config(model, decoder=sampled, random_seed=5), 5, 4)
    greedy, first, second = package.parameters
    assert (greedy.top_k, greedy.temperature, greedy.top_p) == (1, None, None)
    assert (first.temperature, first.top_p, first.top_k) == (0.7, 0.9, 40)
    assert (first.seed, second.seed) == (5, 6)


def test_a_penalty_that_the_sampler_passes_over_is_refused(model: Path) -> None:
    penalty = {"repetition_penalty": 1.2}
    asked = config(model, decoder=penalty)
    for version in ("1.2.1", "1.3.0rc5"):
        with (
            pytest.raises(ConfigError, match="repetition_penalty has no effect"),
            backend(Package(version=version)).open(asked),
        ):
            pass
    for package, engine in (
        (Package(version="1.3.0"), {}),
        (Package(), {"sampler_type": "TRTLLMSampler"}),
        (Package(), {"backend": "tensorrt"}),
    ):
        walked(package, config(model, decoder=penalty, tensorrt={"engine": engine}), 5)
        assert package.parameters[0].repetition_penalty == 1.2


def test_random_weights_of_a_published_shape() -> None:
    package = Package()
    with backend(package).open(config("random:smollm2-135m")) as session:
        (llm,) = package.llms
        folder = Path(llm.args.model)
        shape = json.loads((folder / "config.json").read_text())
        session.generate(requests(5, exact=False), Seen())
    assert llm.args.load_format == "dummy"
    assert shape["architectures"] == ["LlamaForCausalLM"]
    assert (shape["num_hidden_layers"], shape["vocab_size"]) == (30, 49152)
    assert package.parameters[0].end_id == -1, "random weights have no end token"
    assert not folder.exists()


def test_end_tokens_are_those_of_the_generation_then_of_the_model(model: Path) -> None:
    assert end_ids(model) == (END, 9)
    (model / "generation_config.json").unlink()
    assert end_ids(model) == (3,)


def test_a_version_without_engines_says_so(model: Path) -> None:
    asked = config(model, tensorrt={"engine": {"backend": "tensorrt"}})
    package = Package(has_engines=False)
    with pytest.raises(BackendError, match="no TensorRT engines"), backend(package).open(asked):
        pass


@pytest.mark.parametrize(
    ("raised", "expected", "says"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError, "out of memory"),
        (ValueError("unsupported architecture\nmore"), BackendError, "unsupported architecture"),
    ],
)
def test_a_model_that_can_not_be_loaded(
    model: Path, raised: Exception, expected: type[Exception], says: str
) -> None:
    package = Package(fails=raised)
    with pytest.raises(expected, match=says) as caught, backend(package).open(config(model)):
        pass
    assert "more" not in str(caught.value)


def test_a_request_that_the_engine_refuses_is_a_failure_and_the_engine_is_shut_down(model: Path) -> None:
    def refuse(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
        raise RequestError("no free blocks")

    package = Package(answers=refuse)
    with pytest.raises(BackendError, match="batch of 1 failed: no free blocks"):
        walked(package, config(model), 5)
    assert not package.llms[0].is_open


def test_a_request_that_the_engine_gave_up_is_a_failure(model: Path) -> None:
    def timed_out(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
        return {"token_ids": [1], "finish_reason": "timeout"}

    with pytest.raises(BackendError, match="request 0 with 'timeout'"):
        walked(Package(answers=timed_out), config(model), 5)


def test_a_request_longer_than_the_context_is_not_handed_over(model: Path) -> None:
    package = Package()
    with pytest.raises(BackendError, match="24 tokens"):
        walked(package, config(model), 17)
    assert package.prompts == []


def test_the_engine_is_shut_down(model: Path) -> None:
    package = Package()
    with backend(package).open(config(model)):
        assert package.llms[0].is_open
    assert not package.llms[0].is_open


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Linux is what is missing first")
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    why = why_unavailable(tmp_path)
    assert why is not None
    assert "the package tensorrt_llm" in why
    assert "the NVIDIA driver" in why
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    without_gpu = why_unavailable(tmp_path)
    assert without_gpu is not None
    assert "a CUDA GPU" in without_gpu
    assert "NVIDIA driver" not in without_gpu
    (tmp_path / "dev/nvidia0").touch()
    with_gpu = why_unavailable(tmp_path)
    assert with_gpu is not None
    assert "CUDA GPU" not in with_gpu


def test_llem_finds_it_by_its_entry_point_with_its_options(model: Path) -> None:
    asked = load_experiment_config(
        cli_overrides={
            "model": str(model),
            "backend": "tensorrt",
            "n": 8,
            BATCH_SIZE: 4,
            "tensorrt.engine.tensor_parallel_size": 2,
        },
        environ={"LLEM_TENSORRT__ENGINE_DIR": "/engines/a"},
        user_config=Path("/nothing"),
    )
    assert isinstance(load_backend("tensorrt"), TensorrtBackend)
    assert asked.options == TensorrtConfig(
        batch_size=4, engine_dir=Path("/engines/a"), engine={"tensor_parallel_size": 2}
    )
    again = ExperimentConfig.model_validate_json(asked.model_dump_json())
    assert (again, again.options) == (asked, asked.options)


def test_what_llem_asks_of_any_engine_follows_from_its_options(model: Path) -> None:
    spread = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "revision": "v1"}
    own = config(model, tensorrt={"batch_size": 2, "engine": spread}).engine
    assert (own.batch_size, own.gpus, own.gpus_per_model, own.tensor_parallel) == (2, 4, 4, 2)
    assert (own.revision, own.forms_batches, own.why_other_work) == ("v1", True, None)
    beams = config(model, tensorrt={"sampling": {"use_beam_search": True}}).engine
    assert "beam search" in (beams.why_other_work or "")
    guessed = config(model, tensorrt={"engine": {"speculative_config": {"a": 1}}}).engine
    assert guessed.guesses_ahead


def test_a_model_that_can_not_fit_is_refused_unless_the_engine_quantises_it() -> None:
    large = config("random:llama-3.1-8b")
    assert why_too_large(large, (), available_bytes=10**9) is not None
    quantised = config("random:llama-3.1-8b", tensorrt={"engine": {"quant_config": {"quant_algo": "FP8"}}})
    assert why_too_large(quantised, (), available_bytes=10**9) is None


def test_heads_that_the_gpus_can_not_share_evenly_are_refused() -> None:
    asked = config("random:llama-3.2-1b", tensorrt={"engine": {"tensor_parallel_size": 3}})
    said = "tensorrt.engine.tensor_parallel_size is 3, and random:llama-3.2-1b has 32 heads"
    assert any(why.startswith(said) for why in reasons_against(asked))


def test_a_result_of_the_version_that_had_the_engine_built_in_keeps_its_options_and_its_hash(
    model: Path,
) -> None:
    now = config(model, tensorrt={"batch_size": 2})
    sections: dict[str, Any] = {
        "tensorrt": {"batch_size": 2, "engine_dir": None, "engine": {}, "sampling": {}}
    }
    then = now.model_dump(mode="json") | sections | {"options": {}}
    read = ExperimentConfig.model_validate(then, context={"stored": True})
    assert read.options == now.options
    assert config_hash(read) == config_hash(now)
