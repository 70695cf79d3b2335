from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from llenergymeasure.config.loader import (
    BATCH_SIZE,
    _unflatten,
    load_experiment_config,
    parse_assignments,
)
from llenergymeasure.config.models import ExperimentConfig, config_hash
from llenergymeasure.config.presets import PRESET_VALUES
from llenergymeasure.exceptions import ConfigError

ABSENT = Path("/nonexistent/config.yaml")


def load(
    overrides: dict[str, JsonValue] | None = None,
    *,
    path: Path | None = None,
    environ: dict[str, str] | None = None,
    user_config: Path = ABSENT,
) -> ExperimentConfig:
    return load_experiment_config(path, overrides, environ=environ or {}, user_config=user_config)


def origins(
    overrides: dict[str, JsonValue] | None = None,
    *,
    path: Path | None = None,
    environ: dict[str, str] | None = None,
    user_config: Path = ABSENT,
) -> dict[str, str]:
    return dict(load(overrides, path=path, environ=environ, user_config=user_config).origins)


def written(folder: Path, text: str, name: str = "experiment.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_model_alone_gives_the_defaults() -> None:
    assert load({"model": "gpt2"}) == ExperimentConfig(model="gpt2")


def test_the_strongest_voice_wins_and_is_named_as_origin(tmp_path: Path) -> None:
    user = written(tmp_path, "passes: {seconds: 2}", "user.yaml")
    path = written(tmp_path, "model: gpt2\npasses: {seconds: 4}")
    voices: list[tuple[dict[str, JsonValue], Path | None, dict[str, str], Path, float, str]] = [
        ({"model": "gpt2"}, None, {}, ABSENT, 5.0, "default"),
        ({"model": "gpt2", "preset": "rigorous"}, None, {}, ABSENT, 10.0, "preset rigorous"),
        ({"model": "gpt2", "preset": "rigorous"}, None, {}, user, 2.0, f"user config {user}"),
        (
            {"model": "gpt2"},
            None,
            {"LLEM_PASSES__SECONDS": "3"},
            user,
            3.0,
            "environment LLEM_PASSES__SECONDS",
        ),
        ({}, path, {"LLEM_PASSES__SECONDS": "3"}, user, 4.0, f"file {path}"),
        ({"passes.seconds": 6}, path, {"LLEM_PASSES__SECONDS": "3"}, user, 6.0, "flag"),
    ]
    for overrides, file, environ, user_config, seconds, origin in voices:
        config = load(overrides, path=file, environ=environ, user_config=user_config)
        assert config.passes.seconds == seconds
        found = origins(overrides, path=file, environ=environ, user_config=user_config)
        assert found["passes.seconds"] == origin


def test_every_value_knows_its_origin_and_nothing_else_does() -> None:
    def leaves(value: JsonValue, key: str) -> list[str]:
        if isinstance(value, dict) and value:
            return [
                leaf for name, inner in value.items() for leaf in leaves(inner, f"{key}.{name}".lstrip("."))
            ]
        return [key]

    plain: dict[str, JsonValue] = {"model": "gpt2"}
    faulty: dict[str, JsonValue] = {"model": "any", "backend": "simulated", "simulated.fault.kind": "oom"}
    for overrides in (plain, faulty):
        dumped: JsonValue = load(overrides).model_dump(mode="json")
        assert sorted(origins(overrides)) == sorted(leaves(dumped, ""))


def test_the_batch_size_goes_to_the_backend_in_force_whoever_chose_it(tmp_path: Path) -> None:
    path = written(tmp_path, "model: any\nbackend: simulated\nsimulated: {batch_size: 2}")
    config = load({BATCH_SIZE: 16}, path=path)
    assert (config.simulated.batch_size, config.pytorch.batch_size) == (16, 1)
    assert origins({BATCH_SIZE: 16}, path=path)["simulated.batch_size"] == "flag"
    by_environment = load({"model": "any", BATCH_SIZE: 3}, environ={"LLEM_BACKEND": "simulated"})
    assert by_environment.batch_size == 3
    assert load({"model": "gpt2", BATCH_SIZE: 3}).pytorch.batch_size == 3


def test_a_backend_flag_over_the_files_takes_the_batch_size_along(tmp_path: Path) -> None:
    path = written(tmp_path, "model: gpt2\nbackend: simulated")
    config = load({"backend": "pytorch", BATCH_SIZE: 16}, path=path)
    assert config.pytorch.batch_size == 16
    assert config.simulated == ExperimentConfig(model="gpt2").simulated


def test_arguments_that_an_engine_checks_itself_pass_from_every_layer(tmp_path: Path) -> None:
    path = written(tmp_path, "model: gpt2\nbackend: vllm\nvllm: {engine: {seed: 1, hf_overrides: {a: 2}}}")
    config = load(
        {"vllm.engine.seed": 3, "vllm.sampling.min_p": 0.1},
        path=path,
        environ={"LLEM_VLLM__ENGINE__MAX_NUM_SEQS": "4"},
    )
    assert config.vllm.engine == {"seed": 3, "hf_overrides": {"a": 2}, "max_num_seqs": 4}
    assert config.vllm.sampling == {"min_p": 0.1}
    assert origins(path=path)["vllm.engine.hf_overrides.a"] == f"file {path}"


def test_an_option_of_another_engine_is_refused_where_it_was_said_for_this_run(tmp_path: Path) -> None:
    path = written(tmp_path, "model: gpt2\nbackend: simulated\npytorch: {threads: 2}")
    with pytest.raises(ValidationError, match="pytorch has options, but the backend is simulated"):
        load(path=path)


def test_the_configuration_that_a_result_holds_is_a_file_to_run_again(tmp_path: Path) -> None:
    config = load({"model": "gpt2", "backend": "simulated", "simulated.load_s": 0.1, "n": 3})
    path = written(tmp_path, config.model_dump_json())
    assert load(path=path) == config
    given = {key for key, origin in origins(path=path).items() if origin != "default"}
    assert not [key for key in given if key.startswith(("pytorch.", "vllm.", "llamacpp."))]
    path.write_text(config.model_dump_json().replace('"n_batch":512', '"n_batch":256'))
    with pytest.raises(ValidationError, match="llamacpp has options, but the backend is simulated"):
        load(path=path)


def test_settings_of_the_user_and_the_environment_hold_for_their_engine_alone(tmp_path: Path) -> None:
    user = written(tmp_path, "pytorch: {threads: 2}", "user.yaml")
    asked: dict[str, JsonValue] = {"model": "gpt2", "backend": "simulated"}
    environ = {"LLEM_VLLM__ENGINE__SEED": "1"}
    config = load_experiment_config(None, asked, environ=environ, user_config=user)
    assert config == ExperimentConfig(model="gpt2", backend="simulated")
    assert (
        load_experiment_config(None, {"model": "gpt2"}, environ=environ, user_config=user).pytorch.threads
        == 2
    )


def test_llama_cpp_has_no_batch_size_and_a_plug_in_its_own() -> None:
    with pytest.raises(ConfigError, match="one request at a time"):
        load({"model": "gpt2", "backend": "llamacpp", BATCH_SIZE: 2})
    assert load({"model": "gpt2", "backend": "vllm", BATCH_SIZE: 2}).vllm.batch_size == 2
    assert load({"model": "gpt2", "backend": "vllm", "n": 7}).batch_size == 7
    with pytest.raises(ConfigError, match=r"given twice: by --batch-size and as vllm\.batch_size"):
        load({"model": "gpt2", "backend": "vllm", BATCH_SIZE: 2, "vllm.batch_size": 2})


@pytest.mark.parametrize("value", [1, 2])  # the engine's default, and another
def test_one_engine_s_batch_size_is_no_other_s(value: int) -> None:
    for backend in ("vllm", "llamacpp", "simulated"):
        with pytest.raises((ConfigError, ValidationError), match="pytorch has options, but the backend is"):
            load({"model": "gpt2", "backend": backend, "pytorch.batch_size": value})


def test_a_dataset_named_by_a_word_keeps_settings_from_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path, "model: gpt2\ndataset: synthetic")
    dataset = load({"dataset.prompt_tokens": 64}, path=path).dataset
    assert (dataset.name, dataset.prompt_tokens) == ("synthetic", 64)
    nested = written(tmp_path, "model: gpt2\ndataset: {name: synthetic, prompt_tokens: 9}", "other.yaml")
    renamed = load({"dataset": "mixed"}, path=nested).dataset
    assert (renamed.name, renamed.prompt_tokens) == ("mixed", 9)


def test_a_file_may_use_dotted_keys_but_not_say_a_thing_twice(tmp_path: Path) -> None:
    assert load(path=written(tmp_path, "model: gpt2\npytorch.batch_size: 4")).pytorch.batch_size == 4
    twice = written(tmp_path, "model: gpt2\npytorch: {batch_size: 2}\npytorch.batch_size: 4", "twice.yaml")
    with pytest.raises(ConfigError, match=r"pytorch\.batch_size is given twice"):
        load(path=twice)


def test_a_section_of_comments_alone_says_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "model: gpt2\npytorch:\n  # batch_size: 4\n")
    assert load(path=path) == ExperimentConfig(model="gpt2")


def test_null_takes_back_a_value_from_a_weaker_place(tmp_path: Path) -> None:
    path = written(tmp_path, "model: any\nbackend: simulated\nsimulated: {fault: {kind: oom}}")
    assert load(path=path).simulated.fault is not None
    assert load({"simulated.fault": None}, path=path).simulated.fault is None


def test_words_of_yaml_1_1_are_words_and_exponents_are_numbers(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "model: x\nbackend: simulated\ndataset: {chat_template: off}\nsimulated: {decode_s_per_step: 1e-3}",
    )
    config = load(path=path)
    assert config.dataset.chat_template == "off"
    assert config.simulated.decode_s_per_step == 0.001


def test_environment_values_are_yaml_and_an_empty_one_counts_as_unset() -> None:
    config = load(
        {"model": "gpt2"}, environ={"LLEM_N": "7", "LLEM_PRECISION": "", "LLEM_ENERGY__GPUS": "[0, 1]"}
    )
    assert (config.n, config.precision, config.energy.gpus) == (7, "bf16", ("0", "1"))


def test_variables_that_describe_no_experiment_are_left_alone() -> None:
    environ = {"LLEM_CACHE_DIR": "/tmp", "LLEM_POWER_RECORDINGS": "x", "HOME": "/", "OTHER_MODEL": "y"}
    environ["LLEM_METER_IPMI_PASSWORD"] = "for a meter alone"
    assert load({"model": "gpt2"}, environ=environ) == ExperimentConfig(model="gpt2")


def test_all_unknown_keys_of_all_places_come_in_one_message(tmp_path: Path) -> None:
    path = written(
        tmp_path, "model: gpt2\nseed: 3\npytroch: {batch_size: 4, device: cpu}\npytorch: {batchsize: 1}"
    )
    with pytest.raises(ConfigError) as caught:
        load({"batch_size": 2, "qqq": 1}, path=path, environ={"LLEM_MODLE": "x"})
    assert str(caught.value).splitlines() == [
        "6 unknown keys:",
        "  LLEM_MODLE (environment); did you mean LLEM_MODEL?",
        f"  pytorch.batchsize (file {path}, line 4); did you mean pytorch.batch_size?",
        f"  pytroch (file {path}, line 3); did you mean pytorch?",
        f"  seed (file {path}, line 2); did you mean random_seed?",
        "  batch_size (flag); did you mean pytorch.batch_size, or that of another engine?",
        "  qqq (flag)",
    ]


@pytest.mark.parametrize(("old", "new"), [("cycles", "repeats.count"), ("passes.minimum", "passes.count")])
def test_a_renamed_key_is_refused_with_its_new_name_from_every_place(
    tmp_path: Path, old: str, new: str
) -> None:
    path = written(tmp_path, f"model: gpt2\n{old}: 3")
    with pytest.raises(ConfigError, match=rf"{old} is now {new} \(file"):
        load(path=path)
    with pytest.raises(ConfigError, match=rf"{old} is now {new} \(flag\)"):
        load({"model": "gpt2", old: 3})
    first, second = (f"LLEM_{key.upper().replace('.', '__')}" for key in (old, new))
    with pytest.raises(ConfigError, match=f"{first} is now {second}"):
        load({"model": "gpt2"}, environ={first: "3"})


def test_a_study_file_says_that_this_version_runs_single_experiments(tmp_path: Path) -> None:
    for key in ("sweep", "experiments"):
        with pytest.raises(ConfigError, match="single experiments only"):
            load(path=written(tmp_path, f"model: gpt2\n{key}: []"))


def test_without_file_and_model_two_examples_are_shown() -> None:
    with pytest.raises(ConfigError, match=r"llem run experiment\.yaml\n  llem run --model"):
        load()


def test_a_file_without_a_model_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "n: 4")
    with pytest.raises(ConfigError, match=r"experiment\.yaml names no model"):
        load(path=path)
    assert load({"model": "gpt2"}, path=path).n == 4


@pytest.mark.parametrize("preset", sorted(PRESET_VALUES))
def test_every_preset_is_valid_and_its_values_carry_its_name(preset: str) -> None:
    overrides: dict[str, JsonValue] = {"model": "gpt2", "preset": preset}
    seconds = {"smoke": 1.0, "quick": 5.0, "rigorous": 10.0, "ai-energy-score": 5.0, "mlperf-power": 200.0}
    assert load(overrides).passes.seconds == seconds[preset]
    named = {key for key, origin in origins(overrides).items() if origin == f"preset {preset}"}
    assert named == {"pytorch.batch_size" if key == "batch_size" else key for key in PRESET_VALUES[preset]}


def test_a_smoke_run_is_over_in_seconds() -> None:
    config = load({"model": "any", "preset": "smoke"})
    least = (
        3 * config.baseline.seconds + config.warmup.max_seconds + config.passes.count * config.passes.seconds
    )
    assert config.repeats.count == 1
    assert least <= 10


def test_an_unknown_preset_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="preset"):
        load({"model": "gpt2", "preset": "quik"})


def test_where_the_output_goes_does_not_change_what_the_experiment_is(tmp_path: Path) -> None:
    here = load({"model": "gpt2", "output_dir": str(tmp_path)})
    assert here.output_dir == tmp_path
    assert config_hash(here) == config_hash(load({"model": "gpt2"}))


def test_assignments_are_yaml_and_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_assignments(["a.b=1e-3", "model=random:llama-3.2-1b", "x=[1, 2]", "y=a=b", "z="]) == {
        "a.b": 0.001,
        "model": "random:llama-3.2-1b",
        "x": [1, 2],
        "y": "a=b",
        "z": None,
    }


@pytest.mark.parametrize("pairs", [["model"], ["=3"], ["n=1", "n=2"], ["n=[1"], ["n=.nan"], ["n=!!int 3"]])
def test_a_bad_assignment_is_a_configuration_error(pairs: list[str]) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_assignments(pairs)


def test_a_key_of_a_thousand_parts_is_refused_not_followed() -> None:
    with pytest.raises(ConfigError, match="dots"):
        load({"model": "gpt2", ".".join("a" * 5000): 1})


def test_unflatten_nests_dotted_keys() -> None:
    assert _unflatten({"model": "gpt2", "pytorch.batch_size": 4, "a": {"b.c": 1}, "a.d": 2}) == {
        "model": "gpt2",
        "pytorch": {"batch_size": 4},
        "a": {"b": {"c": 1}, "d": 2},
    }


@pytest.mark.parametrize("values", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a.b": 1, "a": {"b": 2}}])
def test_unflatten_refuses_two_claims_to_one_place(values: dict[str, JsonValue]) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        _unflatten(values)


names = st.sampled_from(["a", "b", "c"])
leaf = st.integers(0, 9)
trees = leaf | st.dictionaries(names, leaf | st.dictionaries(names, leaf, min_size=1), min_size=1)


@given(st.dictionaries(names, trees, max_size=4))
def test_unflatten_undoes_any_flattening(tree: dict[str, JsonValue]) -> None:
    def flat(value: JsonValue, key: str) -> dict[str, JsonValue]:
        if not isinstance(value, dict):
            return {key: value}
        parts = [flat(inner, f"{key}.{name}" if key else name) for name, inner in value.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}

    assert _unflatten(flat(tree, "")) == tree
    assert _unflatten(tree) == tree


@given(
    voices=st.lists(st.booleans(), min_size=3, max_size=3),
    values=st.lists(st.integers(1, 10**6), min_size=3, max_size=3, unique=True),
)
def test_precedence_holds_for_any_subset_of_voices(
    tmp_path_factory: pytest.TempPathFactory, voices: list[bool], values: list[int]
) -> None:
    flag, environment, user = voices
    user_path = tmp_path_factory.mktemp("user") / "config.yaml"
    if user:
        user_path.write_text(yaml.safe_dump({"n": values[2]}), encoding="utf-8")
    config = load(
        {"model": "gpt2", **({"n": values[0]} if flag else {})},
        environ={"LLEM_N": str(values[1])} if environment else {},
        user_config=user_path,
    )
    said = [value for value, speaks in zip(values, voices, strict=True) if speaks]
    assert config.n == (said[0] if said else 100)


def test_the_power_preset_measures_for_at_least_ten_minutes() -> None:
    config = load({"model": "gpt2", "preset": "mlperf-power"})
    assert config.passes.seconds * config.passes.count >= 600
    assert config.passes.count >= 3
    assert config.timeout_s > config.passes.budget.seconds


@pytest.mark.parametrize("backend", ["vllm", "llamacpp", "simulated"])
def test_the_energy_score_preset_hands_requests_over_one_at_a_time_on_any_engine(backend: str) -> None:
    config = load({"model": "gpt2", "backend": backend, "preset": "ai-energy-score"})
    assert config.batch_size == 1


def test_the_energy_score_preset_is_that_benchmark_s_protocol() -> None:
    config = load({"model": "gpt2", "preset": "ai-energy-score", "dataset": "prompts.jsonl"})
    assert (config.n, config.batch_size, config.precision) == (1000, 1, "bf16")
    assert (config.max_output_tokens, config.output_length) == (10, "exact")
    assert config.dataset.name == "prompts.jsonl"


def test_a_result_in_the_place_of_a_configuration_is_named_as_one(tmp_path: Path) -> None:
    path = written(tmp_path, "schema_version: '2'\nexperiment_id: a\nconfig: {model: gpt2}\nruns: []")
    with pytest.raises(ConfigError, match="is a result, not a configuration"):
        load(path=path)
