from __future__ import annotations

import threading
from pathlib import Path

import pytest
from benchmarks.boards.amdsmi import SimulatedAmdSmi

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.meters import selection
from llenergymeasure.energy.meters.selection import Selection, choose_meters
from llenergymeasure.exceptions import ConfigError, EnergyError
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.nvml_names import Code

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


def _refused(selection: Selection) -> list[str]:
    """Without the plug-in of the wall, which may be installed beside llem."""
    return [name for name, _ in selection.refused if name != "wall"]


def test_auto_takes_all_that_measures_and_no_model(tmp_path: Path) -> None:
    chosen = _chosen(EnergyConfig(), ONE_GPU, _rapl(tmp_path))
    assert (_names(chosen), chosen.method, _refused(chosen)) == (["NvmlMeter", "RaplMeter"], "measured", [])


def test_auto_models_only_where_nothing_measures_and_says_why(tmp_path: Path) -> None:
    chosen = _chosen(EnergyConfig(), NO_GPU, tmp_path)
    assert (_names(chosen), chosen.method) == (["EstimateMeter"], "modelled")
    assert _refused(chosen) == ["nvml", "rapl"]
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


def test_a_refusal_by_require_measured_refers_to_nothing_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnergyError) as caught:
        _chosen(EnergyConfig(require_measured=True), NO_GPU, tmp_path)
    assert "above" not in (caught.value.hint or "above")
    assert "energy.require_measured=false" in (caught.value.hint or "")


def test_one_sick_device_of_each_meter_is_named_beside_those_that_are_read(tmp_path: Path) -> None:
    root = _rapl(tmp_path)
    (root / "intel-rapl:1").mkdir()
    (root / "intel-rapl:1" / "name").write_text("package-1")
    nvml = SimulatedNvml(VirtualClock(), idle_w=60, uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].fails_with = Code.GPU_IS_LOST
    chosen = _chosen(EnergyConfig(), nvml, root)
    assert (_names(chosen), chosen.method) == (["NvmlMeter", "RaplMeter"], "measured")
    assert [domain.name for domain in chosen.domains] == ["gpu:GPU-b", "cpu:0"]
    assert [name for name, _ in chosen.unread] == ["gpu:unknown-0", "cpu:1"]
    assert len(chosen.notes) == 2


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
    built_in = "amd, apple, battery, estimate, hwmon, ipmi, nvml, rapl, redfish"
    assert (caught.value.hint or "").removesuffix(", wall") == f"one of: auto, {built_in}"


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages that offer one meter that works and one that does not."""
    site = tmp_path / "site"
    info = site / "llem_plug_in-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llenergymeasure.meters]\nbroken = llem_plug_in:Absent\nfragile = llem_plug_in:Fragile\n"
        "rival = llem_plug_in:Rival\nplug = llem_plug_in:Wall\n"
    )
    (site / "llem_plug_in.py").write_text(
        "from llenergymeasure.records import Domain, Quantity\n"
        "class Wall:\n"
        "    name = 'host'\n"
        "    def why_unavailable(self): return None\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *error): pass\n"
        "    def sample(self): return []\n"
        "    def domains(self): return [Domain(self.name, 'host', (Quantity('energy', 'wall', 'J', 1.0),))]\n"
        "class Rival(Wall):\n"
        "    name = 'gpu:GPU-simulated-0'\n"
        "class Fragile(Wall):\n"
        "    def domains(self): raise RuntimeError('no cable')\n"
    )
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_is_taken_by_its_name_and_blamed_by_its_name(tmp_path: Path) -> None:
    assert _names(_chosen(EnergyConfig(meter="plug"), NO_GPU, tmp_path)) == ["Wall"]
    with pytest.raises(EnergyError, match=r"'broken'.*can't be loaded"):
        _chosen(EnergyConfig(meter="broken"), NO_GPU, tmp_path)


@pytest.mark.usefixtures("plug_in")
def test_auto_takes_a_plug_in_that_measures_before_any_model_and_says_what_it_left_out(
    tmp_path: Path,
) -> None:
    chosen = _chosen(EnergyConfig(), NO_GPU, tmp_path)
    assert (set(_names(chosen)), chosen.method) == ({"Rival", "Wall"}, "measured")
    assert set(_refused(chosen)) == {"nvml", "rapl", "broken", "fragile"}
    chosen = _chosen(EnergyConfig(), ONE_GPU, tmp_path)
    assert _names(chosen) == ["NvmlMeter", "Wall"]
    refused = dict(chosen.refused)
    assert refused["rival"].startswith("gpu:GPU-simulated-0 is read by nvml already")
    assert "RuntimeError: no cable" in refused["fragile"]


@pytest.mark.usefixtures("plug_in")
def test_two_packages_with_one_meter_are_not_chosen_between_and_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "second" / "llem_second-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-second\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[llenergymeasure.meters]\nplug = llem_second:Wall\n")
    monkeypatch.syspath_prepend(tmp_path / "second")
    with pytest.raises(ConfigError, match=r"of llem-second 2\.0.* of llem-plug-in 1\.0"):
        _chosen(EnergyConfig(meter="plug"), NO_GPU, tmp_path)
    chosen = _chosen(EnergyConfig(), NO_GPU, tmp_path)
    assert "Rival" in _names(chosen)
    assert "llem-second 2.0" in dict(chosen.refused)["plug"]


class Deaf(SimulatedNvml):
    """A driver whose first call never returns."""

    def __init__(self) -> None:
        super().__init__(VirtualClock(), idle_w=60)
        self.release = threading.Event()

    def nvmlInit(self) -> None:  # noqa: N802  the driver's name
        self.release.wait(60)


def test_a_driver_that_never_answers_is_refused_by_name_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_ANSWER_S", 0.2)
    deaf = Deaf()
    chosen = _chosen(EnergyConfig(), deaf, _rapl(tmp_path))
    assert _names(chosen) == ["RaplMeter"]
    assert "'nvml' did not answer within" in dict(chosen.refused)["nvml"]
    with pytest.raises(EnergyError, match=r"'nvml' can't be used.*did not answer"):
        _chosen(EnergyConfig(meter="nvml"), deaf, tmp_path)
    deaf.release.set()


def test_amd_boards_are_read_where_there_are_any(tmp_path: Path) -> None:
    amdsmi = SimulatedAmdSmi(VirtualClock(), idle_w=90)
    chosen = choose_meters(
        EnergyConfig(), processes=list, nvml=NO_GPU, amdsmi=amdsmi, rapl_root=_rapl(tmp_path)
    )
    assert _names(chosen) == ["AmdMeter", "RaplMeter"]
    by_name = choose_meters(
        EnergyConfig(gpus=("amd-sim",)), processes=list, nvml=NO_GPU, amdsmi=amdsmi, rapl_root=tmp_path
    )
    assert _names(by_name) == ["AmdMeter", "RaplMeter"]


def test_what_a_meter_can_not_tell_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = SimulatedNvml(VirtualClock(), idle_w=60, uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].name = "Another GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    (note,) = _chosen(EnergyConfig(), nvml, tmp_path).notes
    assert note.startswith("every GPU is recorded")
