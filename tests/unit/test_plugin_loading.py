"""A backend of another package: what llem says where it can't be loaded, lacks something or breaks."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError
from typer.testing import CliRunner

from llenergymeasure.backends import Refusal, load_backend, why_not
from llenergymeasure.cli import app
from llenergymeasure.cli.doctor import examination_lines
from llenergymeasure.config.engines import backend_names
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig, identity
from llenergymeasure.doctor.examine import examine
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.measure.preflight import why_too_large

WHOLE = """
    from llenergymeasure.config.engines import EngineSection, Traits

    class Section(EngineSection):
        speed: int = 1
        replicas: int = 1

        @property
        def traits(self):
            return Traits(replicas=self.replicas, takes=frozenset({"lora"}))

    class Engine:
        section = Section

        def why_unavailable(self):
            return None

        def why_refused(self, config):
            return "other.speed: too high" if config.options.speed > 3 else None

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
    return ExperimentConfig.model_validate({"model": "any", "backend": "other", "n": 2, "other": options})


def loaded(**overrides: JsonValue) -> ExperimentConfig:
    named: dict[str, JsonValue] = {"model": "any", "n": 2}
    named |= {key.replace("__", "."): value for key, value in overrides.items()}
    return load_experiment_config(cli_overrides=named, environ={}, user_config=Path("/nothing"))


def test_a_plug_in_is_loaded_and_asked_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    assert "other" in backend_names()
    assert callable(load_backend("other").open)
    assert why_not("other") is None
    assert why_not("other", configured(speed=3)) is None
    assert why_not("other", configured(speed=4)) == Refusal("other.speed: too high")


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
        ("class Engine:\n    def open(self, config): ...", "it lacks why_unavailable, why_refused"),
        (WHOLE.replace("def why_refused", "def why_denied"), "it lacks why_refused"),
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


def test_what_one_prints_on_its_way_in_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path, monkeypatch, "print('a banner')\n" + textwrap.dedent(WHOLE))
    assert why_not("other") is None
    assert capsys.readouterr() == ("", "a banner\n")


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


def test_a_name_that_llem_has_itself_can_not_be_taken_and_the_doctor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = installed(tmp_path, monkeypatch, WHOLE, name="simulated", package="taker")
    assert type(load_backend("simulated")).__module__ == "llenergymeasure.backends.simulated"
    found = {one.name: one.why_not for one in examine(rapl_root=tmp_path).backends}
    assert found["simulated"] is None
    assert "taker 1.5" in (found[f"{module}:Engine"] or "")


@pytest.mark.parametrize("name", ["energy", "n", "options", "model_dump"])
def test_a_name_that_the_configuration_has_for_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    installed(tmp_path, monkeypatch, WHOLE, name=name, package="taker")
    with pytest.raises(BackendError, match=r"of taker 1\.5\) has the name of a field"):
        load_backend(name)
    assert loaded(backend="simulated").backend == "simulated"


BROKEN_SECTIONS = {
    "no section": "class Engine:\n    section = dict",
    "an instance": WHOLE.replace("section = Section", "section = Section()"),
    "traits that raise": WHOLE.replace("return Traits(", "return 1 / 0, ("),
    "traits of another kind": WHOLE.replace("return Traits(", "return dict("),
    "an option that must be given": WHOLE.replace(
        "class Section(EngineSection):", "class Section(EngineSection):\n    bare: int"
    ),
    "no import": "import nothing_of_that_name",
}


@pytest.mark.parametrize("source", BROKEN_SECTIONS.values(), ids=BROKEN_SECTIONS)
def test_a_broken_section_is_blamed_on_its_package_and_disturbs_no_other_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    installed(tmp_path, monkeypatch, source, package="sick")
    with pytest.raises(BackendError, match=r"'other' \(plug_in_\d+:Engine of sick 1\.5\)"):
        configured()
    kept = tmp_path / "config.yaml"
    kept.write_text("other:\n  speed: 2\n")
    named: dict[str, JsonValue] = {"model": "any", "backend": "simulated", "n": 2}
    assert load_experiment_config(cli_overrides=named, environ={}, user_config=kept).backend == "simulated"
    found = {one.name: one.why_not for one in examine(rapl_root=tmp_path).backends}
    assert found["simulated"] is None
    assert "of sick 1.5) " in (found["other"] or "")


def test_options_stand_under_the_plug_in_s_name_and_are_checked_by_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    config = loaded(backend="other", other__speed=3, other__replicas=2)
    assert config.options.model_dump() == {"speed": 3, "replicas": 2}
    assert config.engine.replicas == 2
    assert identity(config)["other"] == {"speed": 3, "replicas": 2}
    again = ExperimentConfig.model_validate_json(config.model_dump_json())
    assert (again, again.options) == (config, config.options)
    assert identity(loaded(backend="other", other__speed=1)) == identity(loaded(backend="other"))
    with pytest.raises(ValidationError) as caught:
        configured(speed="fast", sped=2)
    assert {one["loc"] for one in caught.value.errors()} == {("other", "speed"), ("other", "sped")}
    with pytest.raises(ConfigError, match=r"other\.sped .*did you mean other\.speed"):
        loaded(backend="other", other__sped=2)


def test_options_of_a_plug_in_are_refused_where_another_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    with pytest.raises(ValidationError, match="other has options, but the backend is simulated"):
        loaded(backend="simulated", other__speed=2)
    with pytest.raises(ValidationError, match="simulated has options, but the backend is other"):
        loaded(backend="other", simulated__batch_size=2)


def test_a_plug_in_takes_what_its_traits_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, WHOLE)
    assert loaded(backend="other", lora__path="adapter").lora is not None
    with pytest.raises(ValidationError, match="the backend other takes none"):
        loaded(backend="other", passthrough_kwargs__a=1)


def test_an_unknown_key_is_refused_though_plug_ins_bring_their_own() -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate({"model": "any", "stray": 1, "batch": {"size": 2}})
    assert {(one["type"], one["loc"]) for one in caught.value.errors()} == {
        ("extra_forbidden", ("stray",)),
        ("extra_forbidden", ("batch",)),
    }


def test_an_engine_that_is_kept_apart_is_answered_with_the_package_to_install() -> None:
    name, package = "tensorrt", "llenergymeasure-tensorrt"
    if name in backend_names():
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ValidationError, match=rf"pip install \./plugins/{package}"):
        loaded(backend=name, **{f"{name}__batch_size": 2})
    with pytest.raises(ConfigError) as caught:
        load_backend(name)
    assert package in (caught.value.hint or "")
    with pytest.raises(ValidationError, match=f"--backend {name}"):
        loaded(backend="simulated", **{f"{name}__batch_size": 2})


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
    (line,) = [line for line in examination_lines(found) if line.split()[1:2] == ["other"]]
    assert "no " in line
    assert "No module named 'nothing_of_that_name'" in line
