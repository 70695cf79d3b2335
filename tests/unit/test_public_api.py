"""What `import llenergymeasure` gives, and what run_experiment takes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import llenergymeasure
from llenergymeasure import ConfigError, ExperimentConfig, run_experiment
from llenergymeasure.cli import run as cli_run
from llenergymeasure.cli._display import print_experiment_header

SMOKE: dict[str, Any] = {
    "model": "any",
    "backend": "simulated",
    "preset": "smoke",
    "n": 2,
    "passes": {"seconds": 0.2},
    "baseline": {"seconds": 0},
}


def test_every_public_name_exists_and_no_other_does() -> None:
    for name in llenergymeasure.__all__:
        assert getattr(llenergymeasure, name) is not None
    assert dir(llenergymeasure) == llenergymeasure.__all__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        llenergymeasure.nothing_of_the_kind  # noqa: B018


def test_every_section_of_a_configuration_has_a_public_name() -> None:
    public = {getattr(llenergymeasure, name) for name in llenergymeasure.__all__}

    def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
        kinds = {field.annotation for field in model.model_fields.values()}
        own = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)}
        return own.union(*map(sections, own))

    # A plug-in's section is that plug-in's own.
    assert {one.__name__ for one in sections(ExperimentConfig) - public} <= {"TensorrtConfig"}


def test_the_version_is_that_of_the_distribution() -> None:
    assert llenergymeasure.__version__ == version("llenergymeasure")


def test_a_name_is_looked_up_once_and_the_light_ones_load_no_pydantic() -> None:
    program = (
        "import sys, llenergymeasure\n"
        "assert 'ExperimentConfig' not in vars(llenergymeasure)\n"
        "from llenergymeasure import ConfigError\n"
        "assert 'pydantic' not in sys.modules\n"
        "from llenergymeasure import ExperimentConfig\n"
        "assert vars(llenergymeasure)['ExperimentConfig'] is ExperimentConfig\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_mapping_means_what_a_file_of_its_keys_means(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps(SMOKE))
    config = ExperimentConfig.model_validate(SMOKE)
    results = [run_experiment(one) for one in (config, SMOKE, str(path), path)]
    assert results[1].config_hash == results[2].config_hash == results[3].config_hash
    assert results[0].origins == {}
    assert results[1].origins["n"] == "mapping"
    assert results[2].origins["n"] == f"file {path}"
    assert results[2].origins["passes.count"] == "default"


@pytest.mark.parametrize("given", [None, 3, ["model"], SimpleNamespace(model="gpt2"), ExperimentConfig])
def test_anything_else_is_refused_by_its_type(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run_experiment(given)
    assert type(given).__name__ in caught.value.message
    assert caught.value.hint


def test_an_empty_path_is_told_from_the_folder_that_it_would_be() -> None:
    with pytest.raises(ConfigError, match="an empty path"):
        run_experiment("")


def test_a_value_that_was_put_in_without_a_check_is_refused_before_anything_runs() -> None:
    config = ExperimentConfig.model_validate(SMOKE)
    for spoilt in (config.model_copy(update={"n": -5}), config.model_copy(update={"n": "many"})):
        with pytest.raises(ValidationError) as caught:
            run_experiment(spoilt)
        assert [error["loc"] for error in caught.value.errors()] == [("n",)]


def test_a_changed_copy_has_none_of_the_origins_of_what_it_was() -> None:
    config = ExperimentConfig.model_validate(SMOKE).with_origins({"n": "flag"})
    assert config.origins == {"n": "flag"}
    assert config.model_copy(update={"n": 3}).origins == {}
    assert config == ExperimentConfig.model_validate(SMOKE)
    assert config != config.model_copy(update={"n": 3})


def test_the_seam_of_the_command_line_has_its_names() -> None:
    for name in (
        "estimate_vram",
        "get_gpu_vram_gb",
        "load_experiment_config",
        "print_dry_run",
        "print_experiment_header",
        "print_result_summary",
        "run_experiment",
        "tqdm",
    ):
        assert callable(getattr(cli_run, name))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "gpt2", "backend": "pytorch"}, ["gpt2 on pytorch"]),
        ({"model": "gpt2", "n": 1, "dataset": "mixed"}, ["gpt2", "1 prompt of mixed"]),
        (
            {
                "model": "gpt2",
                "precision": "bf16",
                "n": 3,
                "dataset": SimpleNamespace(name="x"),
                "output_dir": "out",
            },
            ["gpt2, bf16", "3 prompts of x, results to out"],
        ),
        ({"model": "m", "max_output_tokens": 4}, ["m", "up to 4 out"]),
        ({}, []),
    ],
)
def test_the_header_says_what_any_configuration_like_object_offers(
    fields: dict[str, Any], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    print_experiment_header(SimpleNamespace(**fields))  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", said)


def test_a_monitor_is_imported_without_what_results_need() -> None:
    loads = "import sys; from llenergymeasure import Monitor; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
