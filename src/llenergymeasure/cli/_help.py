"""How does the help of a command end: with which examples, and which page says more?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FIRST = "docs/guides/first-measurement.md"
_METERS = "docs/guides/choosing-a-meter.md"
_OWN = "docs/guides/own-code.md"
_COMPARING = "docs/guides/comparing.md"
_CONFIGURATION = "docs/reference/configuration.md"


@dataclass(frozen=True, slots=True)
class Examples:
    """Commands as they are typed, and the page of the documentation, from the root of the project."""

    lines: tuple[str, ...]
    page: str


# By what is typed to get the command.
EXAMPLES: Mapping[str, Examples] = {
    "llem": Examples(
        (
            "llem doctor",
            "llem init",
            "llem run -m smollm2-135m -n 8 --preset smoke",
        ),
        _FIRST,
    ),
    "llem run": Examples(
        (
            "llem run -m smollm2-135m --dry-run",
            "llem run experiment.yaml --set decoder.temperature=0.7 -o results",
            "llem run study.yaml --resume",
        ),
        _FIRST,
    ),
    "llem exec": Examples(
        (
            "llem exec -n 5 -- python generate.py",
            "llem exec --tokens '(\\d+) tokens' --vs 'python other.py' -- python one.py",
        ),
        _OWN,
    ),
    "llem watch": Examples(("llem watch", "llem watch --pid 1234 --interval 0.5"), _METERS),
    "llem record": Examples(
        ("llem record -o results < marks.jsonl", "llem record --meter rapl --pid 1234"), _OWN
    ),
    "llem doctor": Examples(("llem doctor", "llem doctor --json", "llem doctor --characterise"), _METERS),
    "llem calibrate": Examples(
        (
            "llem calibrate --against analyser.csv --accuracy 0.2",
            "llem calibrate --against wall --accuracy 1 --efficiency 90:95 --rest 110:125",
            "llem calibrate --check",
        ),
        "docs/guides/calibrating.md",
    ),
    "llem selfcheck": Examples(("llem selfcheck", "llem selfcheck --json"), "docs/guides/servers.md"),
    "llem init": Examples(("llem init", "llem init --yes --study", "llem init mine.yaml -m gpt2"), _FIRST),
    "llem list": Examples(("llem list", "llem list /data/results --json"), _FIRST),
    "llem show": Examples(
        (
            "llem show last --uncertainty",
            "llem show 20261130T1015 --field energy.per_output_token",
            "llem show results/study --holds 'accuracy>=95%' --sort energy",
        ),
        "docs/concepts/intervals.md",
    ),
    "llem compare": Examples(
        (
            "llem compare results/a results/b",
            "llem compare main branch --fail-on-regression 'per_output_token>3%'",
            "llem compare --run a.yaml b.yaml --at-least 3% -o results",
        ),
        _COMPARING,
    ),
    "llem report": Examples(
        ("llem report results/study -o study.html", "llem report results --format md"),
        "docs/guides/report.md",
    ),
    "llem export": Examples(
        ("llem export results --to csv -o results.csv", "llem export last --to openmetrics"),
        "docs/guides/data.md",
    ),
    "llem recompute": Examples(
        ("llem recompute results/a", "llem recompute results/a --save"), "docs/concepts/silences.md"
    ),
    "llem merge": Examples(
        ("llem merge node1/study node2/study -o whole", "llem merge node*/study -o whole --accept-drift"),
        "docs/guides/clusters.md",
    ),
    "llem config": Examples(("llem config keys batch", "llem config validate study.yaml"), _CONFIGURATION),
    "llem config show": Examples(
        ("llem config show experiment.yaml", "llem config show --set preset=rigorous"), _CONFIGURATION
    ),
    "llem config validate": Examples(
        ("llem config validate experiment.yaml study.yaml", "llem config validate - < experiment.yaml"),
        _CONFIGURATION,
    ),
    "llem config schema": Examples(
        ("llem config schema > experiment.schema.json", "llem config schema --result"), _CONFIGURATION
    ),
    "llem config keys": Examples(("llem config keys", "llem config keys temperature"), _CONFIGURATION),
}


def help_end(command: str) -> str:
    """The last lines of a command's help; what is typed is not broken, so that it can be copied."""
    if (found := EXAMPLES.get(command)) is None:
        return ""
    lines = "".join(f"  {line}\n" for line in found.lines)
    return f"\nExamples:\n{lines}\nMore: {found.page}\n"
