from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from example_result import example_result
from pydantic import ValidationError

from llenergymeasure.analysis.footprint import footprint, why_no_grid
from llenergymeasure.config.models import FootprintConfig

ENERGY = example_result(energy="measured").energy


def test_nothing_is_derived_unless_asked_for() -> None:
    assert footprint(FootprintConfig(), ENERGY) is None


def test_carbon_is_joules_times_pue_times_intensity() -> None:
    assert ENERGY.total.value is not None
    found = footprint(FootprintConfig(grid_g_per_kwh=400, pue=1.5), ENERGY)
    assert found is not None
    assert found.carbon_g.value == pytest.approx(ENERGY.total.value * 1.5 * 400 / 3.6e6)
    assert found.carbon_g.low is not None
    assert found.grid_source == "given in the configuration"
    assert found.cost.value is None
    assert found.cost.reason == "no price was given: footprint.price_per_kwh"


def test_money_is_joules_times_pue_times_price() -> None:
    assert ENERGY.total.value is not None
    found = footprint(FootprintConfig(price_per_kwh=0.3, currency="EUR"), ENERGY)
    assert found is not None
    assert found.cost.value == pytest.approx(ENERGY.total.value * 0.3 / 3.6e6)
    assert found.cost.unit == "EUR"
    assert found.carbon_g.value is None


def test_missing_energy_has_no_footprint_and_not_zero() -> None:
    missing = example_result(energy="missing").energy
    found = footprint(FootprintConfig(grid_g_per_kwh=400), missing)
    assert found is not None
    assert found.carbon_g.value is None
    assert found.carbon_g.reason == missing.total.reason


def test_a_zone_needs_the_package_that_knows_it() -> None:
    if _installed():
        pytest.skip("codecarbon is installed here")
    found = footprint(FootprintConfig(zone="FRA"), ENERGY)
    assert found is not None
    assert found.grid_g_per_kwh is None
    assert "pip install codecarbon" in (found.carbon_g.reason or "")


def test_a_zone_is_read_from_an_installed_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "codecarbon/data/private_infra/global_energy_mix.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"FRA": {"carbon_intensity": 44.5, "year": 2023}}))
    (tmp_path / "codecarbon-3.3.0.dist-info").mkdir()
    (tmp_path / "codecarbon-3.3.0.dist-info/METADATA").write_text("Name: codecarbon\nVersion: 3.3.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = footprint(FootprintConfig(zone="FRA"), ENERGY)
    unknown = footprint(FootprintConfig(zone="XXX"), ENERGY)
    assert known is not None
    assert unknown is not None
    assert (known.grid_g_per_kwh, known.grid_source) == (44.5, "codecarbon 3.3.0, FRA in 2023")
    assert unknown.carbon_g.value is None
    assert why_no_grid(FootprintConfig(zone="FRA")) is None
    why = "codecarbon 3.3.0 has no grid intensity of XXX among its 1 countries (ISO 3166 alpha-3, as FRA)"
    assert why_no_grid(FootprintConfig(zone="XXX")) == why


def test_where_no_zone_was_asked_for_none_is_missed() -> None:
    assert why_no_grid(FootprintConfig()) is None
    assert why_no_grid(FootprintConfig(grid_g_per_kwh=56)) is None


@pytest.mark.parametrize(
    "bad", [{"pue": 0.9}, {"grid_g_per_kwh": -1}, {"zone": "fr"}, {"grid_g_per_kwh": 1, "zone": "FRA"}]
)
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FootprintConfig.model_validate(bad)


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("codecarbon") is not None
