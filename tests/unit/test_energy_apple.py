from __future__ import annotations

import pytest

from llenergymeasure.energy.meters.apple import AppleMeter
from llenergymeasure.exceptions import EnergyError


def test_a_mac_says_who_may_read_its_power_and_what_stands_in() -> None:
    why = AppleMeter(system="Darwin").why_unavailable() or ""
    assert "sudo powermetrics" in why
    assert "--meter estimate" in why


def test_no_mac_says_so_and_nothing_is_opened() -> None:
    assert (
        AppleMeter(system="Linux").why_unavailable()
        == "Apple power readings need macOS; this machine runs Linux"
    )
    with pytest.raises(EnergyError, match="need macOS"), AppleMeter(system="Linux"):
        pass
