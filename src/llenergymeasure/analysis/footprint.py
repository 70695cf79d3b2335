"""What do the joules mean in grams of carbon dioxide and in money?"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from llenergymeasure.config.models import FootprintConfig
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Energy, Footprint

J_PER_KWH = 3.6e6
TABLE = "codecarbon/data/private_infra/global_energy_mix.json"


def footprint(asked: FootprintConfig, energy: Energy) -> Footprint | None:
    """Joules × PUE × grid intensity, and × price; None where neither was asked for.

    The intervals are those of the energy: factors are taken as given.
    """
    if asked.grid_g_per_kwh is None and asked.zone is None and asked.price_per_kwh is None:
        return None
    grid, source = _grid(asked)
    no_grid = (
        source if asked.zone else "no grid intensity was given: footprint.grid_g_per_kwh or footprint.zone"
    )
    no_price = "no price was given: footprint.price_per_kwh"
    carbon = partial(_derived, per_kwh=grid, pue=asked.pue, why_none=no_grid)
    cost = partial(_derived, per_kwh=asked.price_per_kwh, pue=asked.pue, why_none=no_price)
    return Footprint(
        carbon_g=carbon(energy.total, unit="g"),
        carbon_per_output_token_g=carbon(energy.per_output_token, unit="g/token"),
        grid_g_per_kwh=grid,
        grid_source=None if grid is None else source,
        pue=asked.pue,
        cost=cost(energy.total, unit=asked.currency),
        cost_per_output_token=cost(energy.per_output_token, unit=f"{asked.currency}/token"),
        price_per_kwh=asked.price_per_kwh,
    )


def why_no_grid(asked: FootprintConfig) -> str | None:
    """Why the grid intensity of the zone that was asked for is not known; None where it is, or none was."""
    grid, source = _grid(asked)
    return source if asked.zone is not None and grid is None else None


def _derived(joules: Estimate, *, per_kwh: float | None, pue: float, unit: str, why_none: str) -> Estimate:
    if per_kwh is None:
        return Estimate.missing(unit, why_none)
    return joules.times(pue * per_kwh / J_PER_KWH, unit)


def _grid(asked: FootprintConfig) -> tuple[float | None, str]:
    """Grams per kWh and their source, or None and why."""
    if asked.zone is None:
        return asked.grid_g_per_kwh, "given in the configuration"
    try:
        package = distribution("codecarbon")
    except PackageNotFoundError:
        return None, (
            f"zone {asked.zone} needs codecarbon's tables: pip install codecarbon, or give "
            "footprint.grid_g_per_kwh"
        )
    path = Path(str(package.locate_file(TABLE)))
    none = f"codecarbon {package.version} has no grid intensity of {asked.zone}"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if asked.zone not in table:
            return None, f"{none} among its {len(table)} countries (ISO 3166 alpha-3, as FRA)"
        grid, year = float(table[asked.zone]["carbon_intensity"]), table[asked.zone]["year"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{none}: {error}"
    return grid, f"codecarbon {package.version}, {asked.zone} in {year}"
