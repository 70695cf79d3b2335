"""A backend of another package: what llem says where it can't be loaded, lacks something or breaks."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llenergymeasure.backends import Refusal, backend_names, load_backend, why_not
from llenergymeasure.cli import app
from llenergymeasure.cli._examination import examination_lines
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.doctor.examine import examine
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.measure.preflight import why_too_large

WHOLE = """
    class Engine:
        def why_unavailable(self):
            return None

        def why_refused(self, config):
            return "options.speed: too high" if config.options.get("speed", 0) > 3 else None

        def open(self, config):
            raise NotImplementedError
"""

COUNTER = iter(range(1000))


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, *, name: str = "other", package: str = "p"
) -> str:
    """A distribution with one module of that source on the path, as pip leaves one behind."""
    module = f"plug_in_{next(COUNTER)}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    facts = folder / f"{package}-1.5.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (facts / "entry_points.txt").write_text(f"[llenergymeasure.backends]\n{name} = {module}:Engine\n")
    monkeypatch.syspath_prepend(str(folder))
    return module


def configured(**options: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "backend": "other", "n": 2, "options": options})


def test_a_plug_in_is_loaded_and_asked_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    assert "other" in backend_names()
    assert callable(load_backend("other").open)
    assert why_not("other") is None
    assert why_not("other", configured(speed=3)) is None
    assert why_not("other", configured(speed=4)) == Refusal("options.speed: too high")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_that_name", "can't be loaded: ModuleNotFoundError: No module named 'nothing_of"),
        ("Engine = 3", "can't be loaded: TypeError: 'int' object is not callable"),
        ("class Other: ...", "can't be loaded: AttributeError: module 'plug_in_"),
        ("raise SystemExit(3)", "can't be loaded: SystemExit: 3"),
        (
            "class Engine:\n    def __init__(self):\n        raise OSError('no licence')",
            "can't be loaded: OSError: no licence",
        ),
        ("class Engine:\n    def open(self, config): ...", "it has no why_unavailable, why_refused"),
        (WHOLE.replace("def why_refused", "def why_denied"), "it has no why_refused"),
    ],
)
def test_one_that_can_not_be_loaded_is_named_with_its_package_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    module = installed(tmp_path, monkeypatch, source)
    with pytest.raises(BackendError) as caught:
        load_backend("other")
    assert str(caught.value).startswith(f"the backend 'other' ({module}:Engine of p 1.5) ")
    assert said in str(caught.value)


@pytest.mark.parametrize("asked", ["why_unavailable", "why_refused"])
def test_one_that_breaks_when_asked_is_blamed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    whole = textwrap.dedent(WHOLE)
    broken = whole.replace(f"def {asked}(", f"def {asked}(self, *_):\n        1 / 0\n\n    def unused(")
    installed(tmp_path, monkeypatch, broken)
    with pytest.raises(
        BackendError, match=r"broke when it was asked .*: ZeroDivisionError: division by zero"
    ):
        why_not("other", configured())


def test_what_a_plug_in_says_in_the_house_s_own_words_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        from llenergymeasure import ConfigError

        class Engine:
            def why_unavailable(self): ...
            def why_refused(self, config):
                raise ConfigError("speed and haste exclude each other", hint="leave one out")
            def open(self, config): ...
    """
    installed(tmp_path, monkeypatch, source)
    with pytest.raises(ConfigError, match=r"^speed and haste exclude each other$"):
        why_not("other", configured())


def test_two_packages_with_one_name_are_not_chosen_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("p", "q"):
        (tmp_path / package).mkdir()
        installed(tmp_path / package, monkeypatch, WHOLE, package=package)
    with pytest.raises(ConfigError, match="two backends have one name") as caught:
        load_backend("other")
    assert "of p 1.5" in str(caught.value)
    assert "of q 1.5" in str(caught.value)


def test_a_name_that_llem_has_itself_can_not_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WHOLE, name="simulated")
    assert type(load_backend("simulated")).__module__ == "llenergymeasure.backends.simulated"


def test_an_unknown_name_is_answered_with_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    with pytest.raises(ConfigError, match="no backend is named 'others'") as caught:
        load_backend("others")
    assert "other, pytorch" in (caught.value.hint or "")


def test_the_memory_that_another_engine_would_need_refuses_no_plug_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    large = {"model": "random:llama-3.1-8b", "n": 2}
    known, other = (
        ExperimentConfig.model_validate({**large, "backend": name}) for name in ("pytorch", "other")
    )
    assert why_too_large(known, (), available_bytes=10**9) is not None
    assert why_too_large(other, (), available_bytes=10**9) is None


def test_a_broken_plug_in_costs_one_line_of_a_run_and_one_of_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, "import nothing_of_that_name")
    run = CliRunner().invoke(app, ["run", "-b", "other", "--model", "random:llama-3.2-1b", "-n", "2", "-q"])
    assert run.exit_code == 1
    head, *rest = run.stderr.splitlines()
    assert head.startswith("BackendError: the backend 'other' (")
    assert len(rest) == 1
    assert rest[0].startswith("hint: ")
    found = examine(rapl_root=tmp_path)
    assert {one.name: one.why_not for one in found.backends}["simulated"] is None
    (line,) = [line for line in examination_lines(found) if line.startswith("  other ")]
    assert "no " in line
    assert "No module named 'nothing_of_that_name'" in line
