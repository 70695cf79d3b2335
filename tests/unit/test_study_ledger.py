"""What a study remembers of itself, and what of it survives being killed or edited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.budget import RunCost
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Opened, Planned, Record

RECORDS: tuple[Record, ...] = (
    Opened("i" * 8, (Planned("a1", "n=8", ("n=8", "small"), 3),), {"llenergymeasure": "1"}, resumed=False),
    Begun("a1", 1, 1, "host"),
    Failed("a1", 1, 1, "crash", "died of SIGSEGV", final=False),
    Begun("a1", 1, 2, "host"),
    Done("a1", 1, RunCost(3, 15.2, 20.5, None), {"events.jsonl": (10, 12, "ab")}, 17.0),
    Closed("finished"),
)


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    with ledger.opened(tmp_path) as book:
        for record in RECORDS:
            book.append(record)
    assert tuple(ledger.read(tmp_path)) == RECORDS


def test_a_folder_without_a_ledger_holds_no_records(tmp_path: Path) -> None:
    assert list(ledger.read(tmp_path)) == []
    assert not ledger.is_running(tmp_path)


@pytest.mark.parametrize("lost", [1, 5, 40, 10_000])
def test_a_line_that_was_cut_off_is_no_record_and_the_next_one_is_whole(tmp_path: Path, lost: int) -> None:
    with ledger.opened(tmp_path) as book:
        for record in RECORDS[:3]:
            book.append(record)
    path = tmp_path / ledger.NAME
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - lost)])
    kept = tuple(ledger.read(tmp_path))
    assert kept == RECORDS[: len(kept)]
    assert len(kept) < 3
    with ledger.opened(tmp_path) as book:
        book.append(RECORDS[-1])
    assert tuple(ledger.read(tmp_path)) == (*kept, RECORDS[-1])


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"event": "done"}', '{"event": "other"}', "[1]"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    with ledger.opened(tmp_path) as book:
        book.append(RECORDS[0])
    with (tmp_path / ledger.NAME).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ResultError, match="line 2"):
        list(ledger.read(tmp_path))


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llenergymeasure.study import ledger\n"
        "with ledger.opened(Path(sys.argv[1])):\n    print('has it', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "has it\n"
        assert ledger.is_running(tmp_path)
        with pytest.raises(ResultError, match=f"process {first.pid} on "), ledger.opened(tmp_path):
            pass
    finally:
        first.kill()
        first.communicate()
    assert not ledger.is_running(tmp_path)
    with ledger.opened(tmp_path) as book:
        book.append(RECORDS[0])
    assert len(list(ledger.read(tmp_path))) == 1


def test_a_full_disk_leaves_the_records_before_it(tmp_path: Path) -> None:
    import resource

    with ledger.opened(tmp_path) as book:
        book.append(RECORDS[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (tmp_path / ledger.NAME).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, hard))
        try:
            with pytest.raises(ResultError, match="can't be written"):
                book.append(RECORDS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        book.append(RECORDS[2])
    assert tuple(ledger.read(tmp_path)) == (RECORDS[0], RECORDS[2])
