"""How does a result look in a notebook?"""

from __future__ import annotations

from html import escape

from llenergymeasure.records import Estimate
from llenergymeasure.results.figures import amount, led_by_range, relative, span
from llenergymeasure.results.models import ExperimentResult

LEFT = "style='text-align:left'"


def as_html(result: ExperimentResult) -> str:
    """A small table: each value as precise as it is known, or why it is missing."""
    config, energy, speed = result.config, result.energy, result.performance
    estimated = energy.method in {"modelled", "mixed"}
    head = f"{config.model} on {config.backend}, n = {config.n}{', simulated' if result.simulated else ''}"
    boundary = f" ({energy.boundary})" if energy.boundary else ""

    def joules(estimate: Estimate) -> str:
        if energy.valid or estimate.value is None:
            return _text(estimate, estimated=estimated)
        return f"({amount(Estimate(estimate.value, estimate.unit, reason='not valid'))}) not valid"

    rows = [
        *[("Energy is not valid", reason) for reason in energy.reasons if not energy.valid],
        ("Energy per output token", joules(energy.per_output_token)),
        ("Prefill, per prompt token", joules(energy.prefill)),
        ("Decode, per output token", joules(energy.decode)),
        (f"Net of {energy.net_of} idle", joules(energy.net)),
        (f"Energy, total{boundary}", joules(energy.total)),
        ("Output throughput", _text(speed.output_tokens_per_second)),
        ("Time to first token, median", _text(speed.ttft_s.p50)),
        ("End to end, median", _text(speed.e2e_s.p50)),
        *[(f"Run {run.index} failed", run.reason or "") for run in result.runs if run.outcome == "failed"],
        *[("Warning", f"{warning.message}: {warning.remedy}") for warning in result.warnings],
    ]
    body = "".join(
        f"<tr><th {LEFT}>{escape(name)}</th><td {LEFT}>{escape(text)}</td></tr>" for name, text in rows
    )
    note = "<p>≈ estimated, not measured</p>" if estimated else ""
    return f"<table><caption>{escape(head)}</caption><tbody>{body}</tbody></table>{note}"


def _text(estimate: Estimate, *, estimated: bool = False) -> str:
    if estimate.value is None:
        return f"– ({estimate.reason})"
    other = relative(estimate) if led_by_range(estimate) else span(estimate)
    return f"{amount(estimate, modelled=estimated)}{f'; {other}' if other else ''}"
