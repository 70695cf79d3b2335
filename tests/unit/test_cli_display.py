from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
from example_result import EnergyKind, example_result

from llenergymeasure.cli._display import (
    print_dry_run,
    print_experiment_header,
    print_result_details,
    print_result_summary,
)
from llenergymeasure.cli._vram import first_visible, get_gpu_vram_gb
from llenergymeasure.config.models import ENGINES, ExperimentConfig
from llenergymeasure.models.vram import VramEstimate, VramPart

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
    assert "≈ 117 (70 to 164) mJ/token" in out
    assert "estimated, not measured; ± 2 % between runs" in out
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


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("kind", ["modelled", "measured", "missing"])
def test_no_line_is_wider_than_the_terminal(
    kind: EnergyKind, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = example_result(energy=kind)
    print_result_summary(result)
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= columns
    monkeypatch.delenv("COLUMNS")
    print_result_summary(result)
    # Whole words, and all of them.
    assert sorted(narrow.split()) == sorted(capsys.readouterr().out.split())


def test_the_header_reads_its_nine_fields_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    print_experiment_header(Mock(spec_set=HEADER_FIELDS))
    print_experiment_header(MagicMock())
    print_experiment_header(ExperimentConfig(model="gpt2", output_dir=Path("results")))
    out, err = capsys.readouterr()
    assert out == ""
    assert "gpt2 on pytorch, bf16, batch size 1\n100 prompts of mixed, up to 512 tokens in and 128 out" in err
    assert err.endswith("results to results\n")


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (10.0, "20.0 % of the GPU's 10.0 GB: fits"),
        (1.0, "200 % of the GPU's 1.00 GB: does not fit"),
        (None, "that this host has left (no GPU with memory was found): "),
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

    others = {*ENGINES, "options"} - {config.backend}
    shown_of = {key: value for key, value in config.model_dump().items() if key not in others}
    assert shown.count(" = ") - shown.count("total = ") == count(shown_of) - 2
    assert "gpu_layers" not in shown


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
