from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from example_result import EnergyKind, example_result
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Block, Completion, Estimate, Generation, Pass, Window
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.store import (
    load,
    preflight_output,
    save,
    save_or_rescue,
    untraced,
    why_requests_differ,
    write_requests,
)

KINDS: list[EnergyKind] = ["modelled", "measured", "missing"]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_result_reads_back_equal(tmp_path: Path, kind: EnergyKind) -> None:
    result = example_result(energy=kind)
    folder = result.save(tmp_path / "out")
    assert folder == tmp_path / "out" / result.experiment_id
    for path in (folder, folder / "result.json"):
        again = ExperimentResult.load(path)
        assert again == untraced(result)
        assert again.as_json() == untraced(result).as_json()
        assert isinstance(again.warnings, tuple)
        assert isinstance(again.environment.gpus, tuple)


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
@settings(max_examples=50, deadline=None)
def test_any_number_and_any_text_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: float, text: str
) -> None:
    example = example_result(notes=(text,))
    energy = example.energy.model_copy(update={"total": Estimate(value, "J", value, value, (value, value))})
    result = example.model_copy(update={"energy": energy})
    assert load(save(result, tmp_path_factory.mktemp("out"))) == untraced(result)


def test_the_folder_is_as_open_as_the_users_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = example_result().save(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_another_result_that_is_there_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = save(example_result(), out)
    before = contents(folder)
    with pytest.raises(ResultError, match="exists already") as caught:
        save(example_result(energy="measured"), out)
    assert str(folder) in caught.value.message
    assert "--output" in str(caught.value.hint)
    assert contents(folder) == before
    assert list(out.iterdir()) == [folder]


def test_a_second_save_of_the_same_result_changes_nothing(tmp_path: Path) -> None:
    folder = example_result().save(tmp_path)
    before = (folder / "result.json").stat()
    assert example_result().save(tmp_path) == folder
    assert (folder / "result.json").stat() == before
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_a_result_is_saved_beside_the_files_of_its_runs_and_says_where_there_are_none(tmp_path: Path) -> None:
    result = example_result()
    run = tmp_path / "a" / result.experiment_id / "runs" / "1"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("event")
    assert load(result.save(tmp_path / "a")) == result
    assert (run / "events.jsonl").read_text() == "event"
    elsewhere = load(result.save(tmp_path / "b"))
    assert elsewhere == untraced(result)
    assert len(elsewhere.notes) == len(result.notes) + 1
    assert untraced(elsewhere) == elsewhere


def test_what_holds_runs_and_no_result_is_told_how_to_get_one(tmp_path: Path) -> None:
    part = tmp_path / "runs" / "1.part"
    part.mkdir(parents=True)
    for folder in (tmp_path, part):
        with pytest.raises(ResultError, match="no result at") as caught:
            load(folder)
        assert f"llem recompute {folder}" in str(caught.value.hint)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_an_output_directory_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(ResultError, match="director") as caught:
            save(example_result(), out)
        assert str(tmp_path / "out") in caught.value.message
        assert str(preflight_output(out)).endswith(f"{tmp_path / 'out'} is not a directory")


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tiny: Path) -> None:
    (tiny / "in the way").write_bytes(bytes(12_000))
    out = tiny / "deep" / "out"
    with pytest.raises(ResultError, match="No space left on device") as caught:
        save(example_result(), out)
    assert f"mounted on {tiny}" in caught.value.message
    assert "disk tmpfs" in caught.value.message
    assert [path.name for path in tiny.iterdir()] == ["in the way"]
    assert "0 MB left" in str(preflight_output(out))


def test_a_result_that_is_not_taken_where_asked_is_whole_elsewhere_and_the_command_finishes_the_job(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result, out = example_result(), tiny / "deep out"
    with pytest.raises(ResultError, match="No space left on device") as caught:
        save_or_rescue(result, out)
    assert caught.value.result == result
    subprocess.run(["mount", "-o", "remount,size=1m", str(tiny)], check=True)
    command = str(caught.value.hint).partition("then: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert load(out / result.experiment_id) == result


def test_where_no_disk_takes_the_result_the_way_out_is_to_compute_it_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tiny))
    (tiny / "in the way").write_bytes(bytes(12_000))
    with pytest.raises(ResultError) as caught:
        save_or_rescue(example_result(), tiny / "out")
    folder = tiny / "out" / example_result().experiment_id
    assert f"llem recompute --save {folder}" in str(caught.value.hint)
    assert caught.value.result == example_result()


def test_a_read_only_file_system_is_refused_before_and_at_the_end(tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    assert "no permission" in str(preflight_output(tiny / "out"))
    with pytest.raises(ResultError, match="Read-only file system"):
        save(example_result(), tiny / "out")


def test_a_file_size_limit_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The same without root: the kernel refuses the write in the middle of the file."""
    code = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from example_result import example_result
        from llenergymeasure.exceptions import ResultError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            example_result().save(Path(sys.argv[1]) / "out")
        except ResultError as error:
            print(error.message)
        """
    )
    run = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "can't be written" in run.stdout
    assert "File too large" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_of_many_saves_to_one_folder_exactly_one_succeeds(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    saved: list[str] = []
    refused: list[str] = []

    def work(number: int) -> None:
        result = example_result(notes=(str(number),))
        start.wait()
        try:
            save(result, tmp_path / "out")
        except ResultError as error:
            refused.append(error.message)
        else:
            saved.append(str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(saved) == 1
    assert all("exists already" in message for message in refused)
    assert len(refused) == 7
    (folder,) = (tmp_path / "out").iterdir()
    assert load(folder).notes[0] == saved[0]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", ".hidden", "a\n", "a\0b", "ü", "x" * 201])
def test_an_experiment_id_can_not_leave_the_output_directory(name: str) -> None:
    with pytest.raises(ValueError, match="experiment_id"):
        example_result(experiment_id=name)


def edited(**changes: JsonValue) -> str:
    return json.dumps({**example_result().as_json(), **changes})


WHOLE = json.dumps(example_result().as_json())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "broken or cut short"),
        (WHOLE[: len(WHOLE) // 2], "broken or cut short"),
        (WHOLE + "}", "broken or cut short"),
        ("[" * 100_000, "is not a result of llem"),
        ("[]", "no schema_version"),
        ('{"experiment_id": "x"}', "no schema_version"),
        (edited(schema_version="3"), "written by a newer llem"),
        (edited(schema_version=2), "a schema that llem never wrote"),
        (edited(schema_version="banana"), "a schema that llem never wrote"),
        (edited(schema_version="1"), "does not fit schema 1: 'window' is missing"),
        (WHOLE.replace('"setup_s": 4.2', '"setup_s": NaN'), "NaN"),
        (WHOLE.replace('"setup_s": 4.2', '"setup_s": 1e999'), "setup_s"),
        (WHOLE.replace('"setup_s": 4.2', '"setup_s": "4.2"'), "overhead.setup_s"),
        (edited(simulated="no"), "simulated"),
        (edited(experiment_id="../x"), "experiment_id"),
        (edited(surprise=1), "surprise"),
        (WHOLE.replace('"code": "energy_modelled"', '"code": "made_up"'), "warnings.0.code"),
    ],
)
def test_a_bad_result_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(ResultError, match=says) as caught:
        load(tmp_path)
    assert str(file) in caught.value.message
    assert caught.value.hint


def test_what_is_no_file_or_no_text_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    for name, says in [
        ("absent", "no result at"),
        ("pipe", "not a regular file"),
        ("binary", "not UTF-8"),
        ("x" * 5000, "can't be read"),
    ]:
        with pytest.raises(ResultError, match=says) as caught:
            load(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
    with pytest.raises(ResultError, match=r"no result at .*result\.json"):
        load(tmp_path)


def test_requests_keep_every_time_and_every_walk(tmp_path: Path) -> None:
    def completion(index: int, walk: int, first: int | None) -> Completion:
        return Completion(
            index, walk, index // 2, 10 + index, 4, 2**60, 2**60 + 1, first, 2**60 + 9, "length",
            local_prompt_tokens=9 + index,
        )  # fmt: skip

    first = Pass(Window(0, 1), 2, Generation((completion(0, 0, 2**60 + 5), completion(0, 1, None))))
    second = Pass(Window(1, 2), 1, Generation((completion(3, 0, 2**60 + 7),)))
    blocks = [Block("full", None, (first, second), None), Block("prefill", None, (second,), None)]
    write_requests(tmp_path / "requests.parquet", blocks)
    table = pq.read_table(tmp_path / "requests.parquet")
    assert table.to_pydict() == {
        "block": [0, 0, 0, 1],
        "kind": ["full", "full", "full", "prefill"],
        "pass": [0, 0, 1, 0],
        "walk": [0, 1, 0, 0],
        "index": [0, 0, 3, 3],
        "batch": [0, 0, 1, 1],
        "prompt_tokens": [10, 10, 13, 13],
        "output_tokens": [4, 4, 4, 4],
        "local_prompt_tokens": [9, 9, 12, 12],
        "local_output_tokens": [None] * 4,
        "t_scheduled_ns": [2**60] * 4,
        "t_sent_ns": [2**60 + 1] * 4,
        "t_first_ns": [2**60 + 5, None, 2**60 + 7, 2**60 + 7],
        "t_end_ns": [2**60 + 9] * 4,
        "finish": ["length"] * 4,
    }
    assert why_requests_differ(tmp_path / "requests.parquet", blocks) is None
    swapped = why_requests_differ(tmp_path / "requests.parquet", blocks[::-1])
    assert swapped is not None
    assert "block" in swapped or "kind" in swapped
    assert why_requests_differ(tmp_path / "none.parquet", blocks) == "is missing"


def test_requests_of_no_pass_have_the_same_columns(tmp_path: Path) -> None:
    write_requests(tmp_path / "none.parquet", [])
    table = pq.read_table(tmp_path / "none.parquet")
    assert table.num_rows == 0
    assert table.schema.field("t_first_ns").type == "int64"
    assert table.schema.field("local_output_tokens").type == "int32"


def test_an_output_directory_that_will_do_raises_no_objection_and_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert preflight_output(tmp_path) is None
    assert preflight_output(Path("a/b/c")) is None
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    for name in ("x" * 5000, "nul\0byte"):
        assert "can't be used" in str(preflight_output(tmp_path / name))
        with pytest.raises(ResultError, match="can't be written"):
            save(example_result(), tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "no permission" in str(preflight_output(tmp_path / "out"))
    with pytest.raises(ResultError, match="Permission denied"):
        save(example_result(), tmp_path / "out")
    tmp_path.chmod(0o700)
