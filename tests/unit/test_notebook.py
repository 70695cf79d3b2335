from __future__ import annotations

from example_result import example_result

from llenergymeasure.records import Estimate


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


def test_print_shows_the_summary_and_repr_one_line() -> None:
    result = example_result(energy="measured")
    assert repr(result) == "<ExperimentResult smollm2-135m_3f9a1c: 5.86 (5.57 to 6.15) J/token>"
    rows = {line.partition("  ")[0]: line for line in str(result).splitlines()}
    assert "5.86 (5.57 to 6.15) J/token" in rows["Energy per output token"]
    assert "NVIDIA A100-SXM4-80GB" in str(result).splitlines()[0]
    warned = example_result(energy="modelled")
    assert all(one.message in str(warned) and one.remedy in str(warned) for one in warned.warnings)


def test_an_estimate_prints_as_a_person_writes_it() -> None:
    assert str(Estimate(0.803, "J/token", 0.786, 0.820)) == "803 ± 17 mJ/token"
    assert str(Estimate.missing("J", "no meter")) == "–"
    assert "0.803" in repr(Estimate(0.803, "J/token", 0.786, 0.820))
