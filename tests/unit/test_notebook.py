from __future__ import annotations

from example_result import example_result


def test_a_notebook_shows_values_as_precise_as_they_are_known() -> None:
    table = example_result()._repr_html_()
    assert "≈ 450 (270 to 630) J" in table
    assert "estimated, not measured" in table
    measured = example_result(energy="measured")._repr_html_()
    assert "22.5 (21.4 to 23.6) kJ" in measured
    assert "≈" not in measured


def test_a_notebook_says_why_a_value_is_missing_or_not_valid() -> None:
    missing = example_result(energy="missing")
    assert (
        "–</td><td style='text-align:left'>no meter could be read on this machine<" in missing._repr_html_()
    )
    energy = example_result(energy="measured").energy
    wrong = energy.model_copy(update={"valid": False, "reasons": ("gpu:x: counter_reset",)})
    shown = missing.model_copy(update={"energy": wrong})._repr_html_()
    assert shown.index("counter_reset") < shown.index("(22.5 kJ)</td><td style='text-align:left'>not valid")
    assert "22.5 (" not in shown


def test_a_notebook_escapes_text() -> None:
    result = example_result()
    config = result.config.model_copy(update={"model": "<script>alert(1)</script>"})
    assert "<script>" not in result.model_copy(update={"config": config})._repr_html_()
