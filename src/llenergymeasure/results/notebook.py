"""How does a result look in a notebook?"""

from __future__ import annotations

from html import escape

from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult

LEFT = "style='text-align:left'"


def as_html(result: ExperimentResult) -> str:
    """A small table: value ± half of its 95 % interval, its systematic range, or why it is missing."""
    config, energy, speed = result.config, result.energy, result.performance
    estimated = energy.method in {"modelled", "mixed"}
    head = f"{config.model} on {config.backend}, n = {config.n}{', simulated' if result.simulated else ''}"
    boundary = f" ({energy.boundary})" if energy.boundary else ""

    def joules(estimate: Estimate) -> str:
        if energy.valid or estimate.value is None:
            return _text(estimate, estimated=estimated)
        return f"({estimate.value:.4g} {estimate.unit}) not valid"

    rows = [
        *[("Energy is not valid", reason) for reason in energy.reasons if not energy.valid],
        ("Output tokens per second", _text(speed.output_tokens_per_second)),
        (f"Energy{boundary}", joules(energy.total)),
        ("Net energy", joules(energy.net)),
        ("Per output token", joules(energy.per_output_token)),
        ("Time to first token, median", _text(speed.ttft_s.p50)),
        ("End to end, median", _text(speed.e2e_s.p50)),
        *[("Warning", f"{warning.message}: {warning.remedy}") for warning in result.warnings],
    ]
    body = "".join(
        f"<tr><th {LEFT}>{escape(name)}</th><td {LEFT}>{escape(text)}</td></tr>" for name, text in rows
    )
    note = "<p>≈ estimated, not measured</p>" if estimated else ""
    return f"<table><caption>{escape(head)}</caption><tbody>{body}</tbody></table>{note}"


def _text(estimate: Estimate, *, estimated: bool = False) -> str:
    if estimate.value is None:
        return f"— ({estimate.reason})"
    parts = [f"{'≈ ' if estimated else ''}{estimate.value:.4g}"]
    if estimate.low is not None and estimate.high is not None:
        parts.append(f"± {(estimate.high - estimate.low) / 2:.2g}")
    parts.append(estimate.unit)
    if estimate.systematic is not None:
        parts.append(f"({estimate.systematic[0]:.3g} to {estimate.systematic[1]:.3g})")
    return " ".join(parts)
