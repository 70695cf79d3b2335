from __future__ import annotations

from pathlib import Path

import pytest

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.selection import Selection, choose_meters
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml

NO_GPU = SimulatedNvml(VirtualClock(), idle_w=60, uuids=())
ONE_GPU = SimulatedNvml(VirtualClock(), idle_w=60)


def _rapl(root: Path) -> Path:
    zone = root / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    return root


def _chosen(energy: EnergyConfig, nvml: SimulatedNvml, root: Path) -> Selection:
    return choose_meters(energy, processes=list, nvml=nvml, rapl_root=root)


def _names(selection: Selection) -> list[str]:
    return [type(meter).__name__ for meter in selection.meters]


def test_auto_takes_all_that_measures_and_no_model(tmp_path: Path) -> None:
    chosen = _chosen(EnergyConfig(), ONE_GPU, _rapl(tmp_path))
    assert (_names(chosen), chosen.method, chosen.refused) == (["NvmlMeter", "RaplMeter"], "measured", ())


def test_auto_models_only_where_nothing_measures_and_says_why(tmp_path: Path) -> None:
    chosen = _chosen(EnergyConfig(), NO_GPU, tmp_path)
    assert (_names(chosen), chosen.method) == (["EstimateMeter"], "modelled")
    assert [name for name, _ in chosen.refused] == ["nvml", "rapl"]
    assert all(why for _, why in chosen.refused)


def test_the_model_stands_by_where_the_cpu_is_not_measured(tmp_path: Path) -> None:
    chosen = _chosen(EnergyConfig(), ONE_GPU, tmp_path)
    assert (_names(chosen), chosen.method) == (["NvmlMeter", "EstimateMeter"], "measured")
    strict = _chosen(EnergyConfig(require_measured=True), ONE_GPU, tmp_path)
    assert _names(strict) == ["NvmlMeter"]


def test_required_measurement_is_refused_with_every_reason(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match=r"nvml: there is no NVIDIA GPU.*rapl: there is no RAPL"):
        _chosen(EnergyConfig(require_measured=True), NO_GPU, tmp_path)
    with pytest.raises(EnergyError, match="models energy"):
        _chosen(EnergyConfig(meter="estimate", require_measured=True), ONE_GPU, tmp_path)


def test_a_named_meter_is_taken_alone_or_refused(tmp_path: Path) -> None:
    assert _names(_chosen(EnergyConfig(meter="nvml"), ONE_GPU, tmp_path)) == ["NvmlMeter"]
    assert _chosen(EnergyConfig(meter="estimate"), ONE_GPU, tmp_path).method == "modelled"
    with pytest.raises(EnergyError, match="'rapl' can't be used: there is no RAPL package"):
        _chosen(EnergyConfig(meter="rapl"), ONE_GPU, tmp_path)


def test_a_named_gpu_that_is_not_there_is_an_error_and_no_model_steps_in(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match="'GPU-other' means no GPU"):
        _chosen(EnergyConfig(gpus=("GPU-other",)), ONE_GPU, tmp_path)


def test_a_meter_of_no_known_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match="no meter is named 'nvm'") as caught:
        _chosen(EnergyConfig.model_construct(meter="nvm"), ONE_GPU, tmp_path)
    assert caught.value.hint == "one of: auto, estimate, nvml, rapl"


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages that offer one meter that works and one that does not."""
    site = tmp_path / "site"
    info = site / "llem_plug_in-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llenergymeasure.meters]\nwall = llem_plug_in:Wall\nbroken = llem_plug_in:Absent\n"
    )
    (site / "llem_plug_in.py").write_text(
        "class Wall:\n    def why_unavailable(self):\n        return None\n"
    )
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_is_taken_by_its_name_and_blamed_by_its_name(tmp_path: Path) -> None:
    assert _names(_chosen(EnergyConfig(meter="wall"), NO_GPU, tmp_path)) == ["Wall"]
    with pytest.raises(EnergyError, match=r"'broken'.*can't be loaded"):
        _chosen(EnergyConfig(meter="broken"), NO_GPU, tmp_path)
