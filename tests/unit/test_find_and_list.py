"""What `llem list` finds, how a name becomes a result, and single values of one."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from example_result import example_result
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli.list import entries
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Start
from llenergymeasure.results.find import find, where_results_are
from llenergymeasure.results.store import RESULT_FILE


@pytest.fixture(autouse=True)
def index_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LLEM_CACHE_DIR", str(place))
    return place


def saved(directory: Path, name: str, *, at: str = "2025-11-25T10:00:00+00:00") -> Path:
    whole = example_result(energy="measured")
    changed = {"experiment_id": name, "started_at": Start(at, 1, "boot")}
    return whole.model_copy(update=changed).save(directory)


def llem(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_newest_is_listed_last(tmp_path: Path) -> None:
    for name, hour in (("b", 12), ("a", 14), ("c", 13)):
        saved(tmp_path, name, at=f"2025-11-25T{hour}:00:00+00:00")
    assert [one.name for one in entries(tmp_path)] == ["b", "c", "a"]


def test_a_result_is_read_again_only_after_it_changed(tmp_path: Path) -> None:
    file = saved(tmp_path, "one") / RESULT_FILE
    (first,) = entries(tmp_path)
    seen = file.stat()
    text = file.read_bytes()
    # The same stamp: what is there now is not looked at.
    file.write_bytes(b"x" * len(text))
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert entries(tmp_path) == [first]
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    assert [one.state for one in entries(tmp_path)] == ["unreadable"]


def test_a_broken_index_is_as_good_as_none(tmp_path: Path, index_of_this_test: Path) -> None:
    saved(tmp_path, "one")
    first = entries(tmp_path)
    (file,) = index_of_this_test.rglob("*.json")
    for text in ("", "[]", '{"by": 1}', file.read_text()[:50]):
        file.write_text(text)
        assert entries(tmp_path) == first


def test_what_is_gone_is_no_longer_listed(tmp_path: Path) -> None:
    folder = saved(tmp_path, "one")
    saved(tmp_path, "two")
    assert len(entries(tmp_path)) == 2
    (folder / RESULT_FILE).unlink()
    folder.rmdir()
    assert [one.name for one in entries(tmp_path)] == ["two"]


def test_a_truncated_result_and_one_with_nan_are_listed_as_unreadable(tmp_path: Path) -> None:
    cut = saved(tmp_path, "cut") / RESULT_FILE
    cut.write_text(cut.read_text()[:2000])
    odd = saved(tmp_path, "odd") / RESULT_FILE
    data = json.loads(odd.read_text())
    data["energy"]["per_output_token"]["value"] = float("nan")
    odd.write_text(json.dumps(data))
    saved(tmp_path, "well")
    states = {one.name: one.state for one in entries(tmp_path)}
    assert states == {"cut": "unreadable", "odd": "unreadable", "well": "done"}
    listed = json.loads(llem("list", tmp_path, "--json").stdout)
    assert {one["name"] for one in listed} == {"cut", "odd", "well"}


def test_a_beginning_names_a_result_and_an_exact_name_comes_first(tmp_path: Path) -> None:
    for name in ("alpha", "alpha2", "beta"):
        saved(tmp_path, name)
    assert find("b", tmp_path) == tmp_path / "beta"
    assert find("alpha", tmp_path) == tmp_path / "alpha"
    assert find(tmp_path / "beta", tmp_path / "elsewhere") == tmp_path / "beta"
    with pytest.raises(ConfigError, match="alpha2"):
        find("al", tmp_path)
    with pytest.raises(ResultError):
        find("gamma", tmp_path)
    # A path that does not exist stays one.
    assert find("some/where", tmp_path) == Path("some/where")


def test_last_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        os.utime(saved(tmp_path, name) / RESULT_FILE, ns=(0, 10**18 + number))
    (tmp_path / "unfinished").mkdir()
    assert find("last", tmp_path) == tmp_path / "a"
    with pytest.raises(ResultError):
        find("last", tmp_path / "unfinished")


def test_results_are_in_the_working_directory_or_where_the_user_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLEM_OUTPUT_DIR", str(tmp_path / "mine"))
    assert where_results_are() == tmp_path / "mine"
    (tmp_path / "results").mkdir()
    assert where_results_are() == Path("results")


def test_an_ambiguous_name_ends_with_two_and_an_unknown_one_with_one(tmp_path: Path) -> None:
    for name in ("alpha", "alpha2"):
        saved(tmp_path, name)
    for command in ("show", "recompute"):
        assert llem(command, "al", "--dir", tmp_path).exit_code == 2
        assert llem(command, "gamma", "--dir", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("kind", "inference\n"),
        ("tokens.requests", "120\n"),
        ("runs[0].outcome", "measured\n"),
        ("runs.0.outcome", "measured\n"),
        ("tokens.disputed", "false\n"),
        ("tokens.local_input", "null\n"),
    ],
)
def test_a_field_is_the_value_alone(tmp_path: Path, field: str, shown: str) -> None:
    done = llem("show", saved(tmp_path, "one"), "--field", field)
    assert (done.exit_code, done.stdout) == (0, shown)


def test_an_estimate_is_a_field_as_an_object(tmp_path: Path) -> None:
    folder = saved(tmp_path, "one")
    done = llem("show", folder, "--field", "energy.per_output_token")
    whole = json.loads((folder / RESULT_FILE).read_text())
    assert json.loads(done.stdout) == whole["energy"]["per_output_token"]


def test_an_absent_field_ends_with_one_and_the_near_names(tmp_path: Path) -> None:
    for field, near in (("per_output_token", "energy.per_output_token"), ("energy.totl", "energy.total")):
        done = llem("show", saved(tmp_path / field, "one"), "--field", field)
        assert (done.exit_code, done.stdout) == (1, "")
        assert near in done.stderr


def test_every_kind_is_listed_by_name_and_a_newer_schema_is_unreadable(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    file = saved(tmp_path, "newer", at="2025-11-26T10:00:00+00:00") / RESULT_FILE
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "schema_version": "3"}))
    by_name = {one.name: one for one in entries(tmp_path)}
    assert (by_name["one"].kind, by_name["one"].state) == ("result", "done")
    assert by_name["newer"].state == "unreadable"
    assert "newer llem" in by_name["newer"].what
    head, first, *_ = llem("list", tmp_path).stdout.splitlines()
    assert head.split()[:2] == ["name", "kind"]
    assert "result" in first


def test_a_page_beside_results_is_left_out_where_a_shell_names_all(tmp_path: Path) -> None:
    names = [saved(tmp_path, "alpha"), saved(tmp_path, "beta")]
    page = tmp_path / "report.html"
    page.write_text("<html>")
    whole = llem("compare", *names)
    assert whole.exit_code == 0
    assert llem("compare", *names, page).stdout == whole.stdout
    assert llem("compare", tmp_path / "*").stdout == whole.stdout
    assert llem("export", *names, page).stdout == llem("export", *names).stdout != ""
    assert llem("show", page).exit_code == 1


def test_a_folder_of_results_is_no_result_but_says_what_to_give(tmp_path: Path) -> None:
    saved(tmp_path, "alpha")
    for command in ("show", "compare"):
        refused = llem(command, tmp_path)
        assert refused.exit_code == 1
        assert f"'{tmp_path}/*'" in refused.stderr.replace("\n  ", "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("command", ["list", "show", "compare"])
def test_a_file_that_the_system_refuses_is_no_bug_in_llem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "closed")

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    refused = llem(command, tmp_path)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"closed: {os.strerror(number)}\nhint: ")
