from __future__ import annotations

import pytest

from llenergymeasure.energy.nvml import NvmlMeter, chosen_gpus, visible_gpus
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor

UUIDS = [f"GPU-{letter}{number}" for number, letter in enumerate("aabbccddeeff")]


def _nvml(
    *, uuids: tuple[str, ...] = ("GPU-simulated-0",), fields: tuple[int, ...] = (83, 185, 186)
) -> SimulatedNvml:
    sensor = SimulatedSensor(fields=frozenset(fields))
    return SimulatedNvml(VirtualClock(), idle_w=60, uuids=uuids, sensor=sensor)


class WithoutFields(SimulatedNvml):
    """A driver that is too old for batched reads."""

    def nvmlDeviceGetFieldValues(self, gpu: object, fields: object) -> list[object]:  # type: ignore[override]  # noqa: N802
        raise self.NVMLError(self.NVML_ERROR_NOT_SUPPORTED)


def test_counter_and_both_powers_are_read_by_uuid() -> None:
    with NvmlMeter(_nvml()) as meter:
        (domain,) = meter.domains()
        samples = {sample.quantity: sample.raw for sample in meter.sample()}
    assert domain.name == "gpu:GPU-simulated-0"
    assert [q.source for q in domain.quantities] == [
        "nvml.total_energy",
        "nvml.power.instant",
        "nvml.power.average",
    ]
    assert samples["power_instant"] == samples["power_average"] == 60_000
    assert samples["energy"] > 0


@pytest.mark.parametrize(
    ("fields", "names"),
    [((83,), ["energy"]), ((185,), ["power_average"]), ((83, 186), ["energy", "power_instant"])],
)
def test_a_board_has_the_quantities_that_could_be_read(fields: tuple[int, ...], names: list[str]) -> None:
    with NvmlMeter(_nvml(fields=fields)) as meter:
        assert [quantity.name for quantity in meter.domains()[0].quantities] == names
        assert [sample.quantity for sample in meter.sample()] == names


def test_single_calls_stand_in_where_batched_ones_fail() -> None:
    with NvmlMeter(WithoutFields(VirtualClock(), idle_w=60)) as meter:
        assert [q.source for q in meter.domains()[0].quantities] == ["nvml.total_energy", "nvml.power.usage"]
        assert {sample.quantity: sample.raw for sample in meter.sample()}["power_usage"] == 60_000


def test_a_lost_board_gives_nothing_and_the_others_go_on() -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    with NvmlMeter(nvml) as meter:
        nvml.gpus[0].fails_with = nvml.NVML_ERROR_GPU_IS_LOST
        assert {sample.domain for sample in meter.sample()} == {"gpu:GPU-b"}


def test_no_board_and_no_readable_field_are_reasons() -> None:
    assert "no NVIDIA GPU" in (NvmlMeter(_nvml(uuids=())).why_unavailable() or "")
    assert "neither energy nor power" in (NvmlMeter(_nvml(fields=())).why_unavailable() or "")
    assert NvmlMeter(_nvml()).why_unavailable() is None


def test_the_driver_is_closed_again_also_after_a_failure() -> None:
    nvml = _nvml(fields=())
    assert NvmlMeter(nvml).why_unavailable() is not None
    with pytest.raises(nvml.NVMLError, match="Uninitialized"):
        nvml.nvmlDeviceGetCount()


def test_auto_opens_what_cuda_leaves_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b", "GPU-c"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-a")
    with NvmlMeter(nvml) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU-c", "gpu:GPU-a"]
    with NvmlMeter(nvml, gpus="all") as meter:
        assert len(meter.domains()) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every" in (NvmlMeter(nvml).why_unavailable() or "")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, tuple(range(12))),
        ("", ()),
        ("-1", ()),
        ("10", (10,)),
        ("3,1", (3, 1)),
        ("1,-1,2", (1,)),
        ("1,99,2", (1,)),
        ("GPU-b3, GPU-c", (3,)),
        ("GPU-f11,0", (11, 0)),
        ("NoDevFiles", ()),
        ("MIG-1234", tuple(range(12))),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(spec: str | None, expected: tuple[int, ...]) -> None:
    assert visible_gpus(spec, UUIDS, pci_order=True) == expected


def test_integers_mean_nothing_where_cuda_orders_unlike_boards_by_speed() -> None:
    assert visible_gpus("1", UUIDS, pci_order=False) == tuple(range(12))
    assert visible_gpus("GPU-b3", UUIDS, pci_order=False) == (3,)


def test_named_boards_are_indices_uuids_or_beginnings_that_mean_one() -> None:
    assert chosen_gpus(["10", "GPU-a0", "GPU-b3", "0"], UUIDS) == (10, 0, 3)
    with pytest.raises(EnergyError, match="'GPU-a' means 2 GPUs"):
        chosen_gpus(["GPU-a"], UUIDS)
    with pytest.raises(EnergyError, match="'12' means no GPU"):
        chosen_gpus(["12"], UUIDS)
