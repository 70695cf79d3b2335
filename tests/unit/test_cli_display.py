from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
from example_result import example_result

from llenergymeasure.cli._display import (
    print_dry_run,
    print_experiment_header,
    print_result_details,
    print_result_summary,
)
from llenergymeasure.cli._plan import expected_s, steps
from llenergymeasure.cli._vram import first_visible, get_gpu_vram_gb
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.vram import VramEstimate, VramPart
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Regression

HEADER_FIELDS = [
    "model",
    "backend",
    "precision",
    "n",
    "dataset",
    "output_dir",
    "max_input_tokens",
    "max_output_tokens",
    "pytorch",
]


def test_a_modelled_result_says_that_it_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result(energy="modelled"))
    out, err = capsys.readouterr()
    assert err == ""
    assert "≈ 117 ± 2 mJ/token" in out
    assert "70 to 164 mJ/token: estimated, not measured" in out
    assert "modelled by cpu-time-model; boundary modelled" in out
    assert out.index("Energy per output token") < out.index("Output throughput") < out.index("Warning: ")
    assert "→ " in out.splitlines()[-1]


def test_a_measured_result_carries_no_mark_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result(energy="measured"))
    out = capsys.readouterr().out
    assert "≈" not in out
    assert "estimated" not in out
    assert "counter by nvml.total_energy; boundary gpu" in out
    assert "NVIDIA A100-SXM4-80GB" in out.splitlines()[0]


def test_missing_energy_is_a_dash_with_its_reason_and_never_zero(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result(energy="missing"))
    rows = {
        line.strip().split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    for label in ("Energy per output token", "Energy, total", "Energy is not valid"):
        assert "no meter could be read on this machine" in rows[label]
        assert "0.0" not in rows[label]


def test_a_simulated_result_is_marked_in_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result().model_copy(update={"simulated": True, "steady": False}))
    out = capsys.readouterr().out
    assert "simulated" in out.splitlines()[0]
    assert any(line.split()[:2] == ["Steady", "no"] for line in out.splitlines())


def test_details_name_what_differs_from_the_defaults_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result(notes=("2 of 8 prompts were cut",))
    print_result_details(result)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 of 8 prompts were cut" in err
    assert "95 % interval" in err
    assert all(reading.source in err for reading in result.energy.readings)


def test_details_show_what_a_token_costs_by_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result(energy="measured")
    overlap = Estimate.missing("J/token", "the phases overlap")
    regression = Regression(
        prefill=Estimate(0.0123, "J/token", 0.0121, 0.0125),
        decode=Estimate(0.611, "J/token", 0.605, 0.617),
        batches=1200,
        phases_prefill=overlap,
        phases_decode=overlap,
    )
    energy = result.energy.model_copy(update={"regression": regression})
    print_result_details(result.model_copy(update={"energy": energy}))
    err = capsys.readouterr().err
    assert "prompt and output token by the times of the phases: the phases overlap\n" in err
    assert "by regression over 1,200 batches: 12.3 ± 0.2 mJ/token and 611 ± 6 mJ/token\n" in err


def test_the_header_reads_its_nine_fields_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    print_experiment_header(Mock(spec_set=HEADER_FIELDS))
    print_experiment_header(MagicMock())
    print_experiment_header(ExperimentConfig(model="gpt2", output_dir=Path("results")))
    out, err = capsys.readouterr()
    assert out == ""
    assert "gpt2 on pytorch, bf16, batch size 1\n100 prompts of mixed, up to 512 tokens in and 128 out" in err
    assert err.endswith("results to results\n")


def test_the_plan_adds_up() -> None:
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "simulated": {"load_s": 2},
            "baseline": {"seconds": 4},
            "warmup": {"max_seconds": 10},
            "passes": {"seconds": 3, "minimum": 6, "budget": {"seconds": 50}},
        }
    )
    assert [(step.low_s, step.high_s) for step in steps(config)] == [
        (4, 4), (2, 2), (4, 4), (0, 10), (18, 50), (4, 4),
    ]  # fmt: skip
    assert expected_s(config) == (32, 74)
    assert expected_s(config.model_copy(update={"timeout_s": 40.0})) == (32, 40)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (10.0, "20 % of the GPU's 10.0 GB: fits"),
        (1.0, "200 % of the GPU's 1.00 GB: does not fit"),
        (None, "no GPU"),
    ],
)
def test_the_dry_run_compares_with_the_gpu(
    gpu: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vram = VramEstimate(
        2_000_000_000, (VramPart("weights", 2_000_000_000, "1 × 2"),), "weights", "a table", None
    )
    print_dry_run(ExperimentConfig(model="gpt2"), vram, gpu_vram_gb=gpu, origins={"model": "flag"})
    assert said in capsys.readouterr().out


def test_the_dry_run_shows_every_value_once(capsys: pytest.CaptureFixture[str]) -> None:
    vram = VramEstimate(None, (), "weights", "none", "the shape is unknown")
    config = ExperimentConfig(model="gpt2", n=7)
    print_dry_run(config, vram, gpu_vram_gb=None, origins={"model": "flag", "n": "file a.yaml"})
    shown = capsys.readouterr().out
    assert "– the shape is unknown" in shown
    table = [line.split() for line in shown.splitlines()]
    assert ["n", "7", "file", "a.yaml"] in table

    def count(value: object) -> int:
        return sum(map(count, value.values())) if isinstance(value, dict) else 1

    assert shown.count(" = ") - shown.count("total = ") == count(config.model_dump()) - 2


@pytest.mark.parametrize(
    ("variable", "first"),
    [
        (None, 0),
        ("", None),
        ("-1", None),
        ("2,0", 2),
        (" 3 ", 3),
        ("GPU-6f1c,GPU-7", "GPU-6f1c"),
        ("NoDevFiles", "NoDevFiles"),
    ],
)
def test_the_first_visible_device(variable: str | None, first: int | str | None) -> None:
    assert first_visible(variable) == first


def test_gpu_memory_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible in ("0", "", "99", "GPU-none", "NoDevFiles", "MIG-x"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        memory = get_gpu_vram_gb()
        assert memory is None or memory > 0
