"""What `llem exec` says of commands whose work is known, and what it does with those that fail."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from benchmarks.boards.scenario import Board
from own_scripts import BOARD, codes, environ, truth_j
from recordings import WHOLE, S, at, made, seen_by

from llenergymeasure.analysis.compare_windows import compare_windows
from llenergymeasure.analysis.limits import limit_of, regressions
from llenergymeasure.cli.list import entries
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.command import Wanted, _run_all
from llenergymeasure.records import Domain, MeterChoice, Start, Window
from llenergymeasure.results.windows import WindowsResult
from llenergymeasure.simulation.waveform import Waveform

# Works until it has used so many CPU seconds, however busy the machine is.
WORK = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass\nprint('made 1,200 tokens')\n"


def execute(
    directory: Path, *arguments: str, boards: Sequence[Board] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "exec", *arguments],
        env=environ(directory, boards),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def work(tmp_path: Path) -> str:
    (tmp_path / "work.py").write_text(WORK)
    return str(tmp_path / "work.py")


def test_cpu_seconds_of_each_run_are_charged_with_those_of_its_children(tmp_path: Path, work: str) -> None:
    line = f"{sys.executable} {work} 0.4 & {sys.executable} {work} 0.4; wait"
    result = result_of(execute(tmp_path, "-n", "3", "--json", "--meter", "estimate", "--", "sh", "-c", line))
    (command,) = result["windows"]
    assert (result["kind"], command["count"], command["failed"]) == ("command", 3, 0)
    model = [one for one in result["readings"] if one["domain"] == "host"]
    assert len(model) == 1
    idle = result_of(execute(tmp_path, "-n", "3", "--json", "--meter", "estimate", "--", "sleep", "0.8"))
    (slept,) = idle["windows"]
    # 0.8 CPU seconds and what two interpreters take to start, against next to none.
    assert command["energy_each"]["value"] > 10 * max(slept["energy_each"]["value"], 1e-3)
    assert slept["seconds_each"]["value"] == pytest.approx(0.8, rel=0.2)
    assert slept["seconds_each"]["value"] >= 0.8


def test_tokens_memory_and_files_of_a_command(tmp_path: Path, work: str) -> None:
    program = "b = bytearray(60_000_000); print('first 7 tokens'); print('made 1,200 tokens')"
    done = execute(
        tmp_path,
        *("-n", "3", "--warmup", "1", "--prepare", "echo x >> prepared", "-o", "out"),
        *("--json", "--tokens", r"([\d,]+) tokens", "--", sys.executable, "-c", program),
    )
    result = result_of(done)
    (command,) = result["windows"]
    assert (command["output_tokens"], command["count"]) == (3600, 3)
    assert command["per_total_token"]["reason"] == "only output tokens are known, and no prompt tokens"
    assert 60e6 < command["peak_bytes"]["value"] < 120e6
    assert (tmp_path / "prepared").read_text() == "x\n" * 4
    (folder,) = (tmp_path / "out").iterdir()
    assert f"Saved: {folder}" in done.stderr
    assert WindowsResult.load(folder).as_json() == result
    again = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "recompute", str(folder)],
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "values are the same" in again.stdout, again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="it is seen in /proc")
def test_a_peak_below_that_of_what_starts_the_command_is_known_to_a_range(tmp_path: Path) -> None:
    done = execute(tmp_path, "-n", "2", "--meter", "estimate", "--json", "--", "sleep", "0.3")
    peak = result_of(done)["windows"][0]["peak_bytes"]
    assert 0.2e6 < peak["value"] < 5e6
    assert peak["systematic"][0] == peak["value"]
    assert 5e6 < peak["systematic"][1] < 30e6


def test_joules_of_a_command_on_a_board_hold_the_truth(tmp_path: Path) -> None:
    arguments = ("--meter", "nvml", "--gpu", "all", "-n", "2", "--json", "--", "sleep", "1.5")
    result = result_of(execute(tmp_path, *arguments, boards=[BOARD]))
    (command,) = result["windows"]
    truth = sum(truth_j(tmp_path, one["start_ns"], one["end_ns"]) for one in command["occurrences"])
    assert command["energy"]["low"] <= truth <= command["energy"]["high"]
    assert (command["silent"], result["boundary"]) == (True, "gpu")


def test_two_commands_are_told_apart_in_turns(tmp_path: Path, work: str) -> None:
    one, other = (shlex.join([sys.executable, work, seconds]) for seconds in ("0.2", "0.5"))
    done = execute(tmp_path, "-n", "4", "--json", "--vs", other, "-o", "out", "--", *shlex.split(one))
    both = result_of(done)
    energy, seconds, *_ = both["comparison"]["ratios"]
    assert (energy["name"], energy["verdict"]) == ("energy_per_window", "higher")
    assert energy["ratio"]["low"] > 1.3
    assert seconds["method"]["name"] == "welch_satterthwaite"
    runs = [(at_["start_ns"], side) for side in "ab" for at_ in both[side]["windows"][0]["occurrences"]]
    order = "".join(side for _, side in sorted(runs))
    # In blocks of one of each.
    assert all(set(order[n : n + 2]) == {"a", "b"} for n in range(0, 8, 2))
    folders = sorted((tmp_path / "out").iterdir())
    compared = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "compare", *map(str, folders)],
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    assert "Energy per run" in compared.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--", "no-such-command"), 2, "no-such-command"),
        (("--vs", "no-such-command", "--", "true"), 2, "no-such-command"),
        (("--vs", "'", "--", "true"), 2, "quotes"),
        (("--tokens", "(", "--", "true"), 2, "regular expression"),
        (("-n", "2", "--", "sh", "-c", "echo what went wrong; exit 3"), 1, "what went wrong"),
        (("--", "sh", "-c", "kill -9 $$"), 1, "was ended by SIGKILL"),
        (("--prepare", "exit 4", "--", "true"), 1, "exit code 4"),
    ],
)
def test_what_can_not_be_measured_is_an_error_with_a_way_out(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = execute(tmp_path, "-o", "out", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "hint: " in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_failing_runs_are_measured_where_that_is_asked_for(tmp_path: Path) -> None:
    result = result_of(execute(tmp_path, "-n", "3", "--json", "--ignore-failure", "--", "sh", "-c", "exit 3"))
    (command,) = result["windows"]
    assert (command["count"], command["failed"]) == (3, 3)
    assert [one["exit_code"] for one in command["occurrences"]] == [3] * 3
    assert "command_failed" in codes(result)


def test_ctrl_c_ends_the_command_and_all_that_it_started(tmp_path: Path) -> None:
    line = "sleep 321 & echo $$ > pid; sleep 321"
    with subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", "exec", "-o", "out", "--", "sh", "-c", line],
        env=environ(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "Interrupted" in err
    mine = [one for one in psutil.process_iter() if _is_of(one, tmp_path)]
    assert mine == []
    assert not list((tmp_path / "out").glob("*"))


def test_runs_that_were_whole_are_kept_when_the_rest_is_ended(tmp_path: Path) -> None:
    line = "echo x >> begun; test $(wc -l < begun) -lt 4 || sleep 321"
    with subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", "exec", "-n", "9", "-o", "out", "--", "sh", "-c", line],
        env=environ(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until = time.monotonic() + 60
        while not ((tmp_path / "begun").exists() and (tmp_path / "begun").read_text().count("x") == 4):
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    (folder,) = (tmp_path / "out").glob("*")
    assert str(folder.name) in err
    kept = WindowsResult.load(folder)
    assert [one.count for one in kept.windows] == [3]
    assert "interrupted" in [one.code for one in kept.warnings]
    assert len(list(folder.glob("output-*.log"))) == 3
    failing = "echo x >> ran; test $(wc -l < ran) -lt 3"
    done = execute(tmp_path, "-n", "5", "-o", "failed", "--", "sh", "-c", failing)
    assert done.returncode == 1
    (folder,) = (tmp_path / "failed").glob("*")
    assert [one.count for one in WindowsResult.load(folder).windows] == [2]


def _is_of(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.environ().get("HOME") == str(directory) and process.pid != os.getpid()
    except psutil.Error:
        return False


# Verdicts, on results whose numbers are known


def command_result(
    identifier: str, watts: float, *, peak: int = 50_000_000, below: int | None = None, **changes: Any
) -> WindowsResult:
    facts = {"silent_s": 0.6, "exit_code": 0, "peak_below_bytes": below}
    marks = [
        at("x", 13 + 5 * n, 2.0 + 0.01 * (n % 3), peak_bytes=peak + n, **facts)  # type: ignore[arg-type]
        for n in range(10)
    ]
    power = Waveform(50.0)
    for one in marks:
        power.burst(one.window.start_ns, watts, until_ns=one.window.end_ns)
    return made(
        seen_by(power),
        marks,
        kind="command",
        experiment_id=identifier,
        whole=Window(12 * S, 69 * S),
        **changes,
    )


def test_five_per_cent_more_work_is_told_apart_at_ten_runs_and_none_is_not() -> None:
    a, b = command_result("a", 200.0), command_result("b", 210.0)
    energy, seconds, memory = compare_windows(a, b).ratios
    assert energy.ratio.value == pytest.approx(1.05, rel=0.005)
    assert (energy.verdict, seconds.verdict, memory.verdict) == ("higher", *["no difference shown"] * 2)
    found = compare_windows(a, b)
    (worse,) = regressions(found, limit_of("energy_per_window>2%"))
    assert worse.startswith("Energy per run")
    assert regressions(found, limit_of("energy_per_window>10%")) == []
    same, *_ = compare_windows(a, command_result("c", 200.0)).ratios
    assert same.verdict == "no difference shown"


def test_peaks_that_are_known_to_ranges_which_overlap_are_not_told_apart() -> None:
    for below, verdict in ((None, "higher"), (10_000_000, "within systematic uncertainty")):
        a = command_result("a", 200.0, peak=2_000_000, below=below)
        b = command_result("b", 200.0, peak=8_000_000, below=below)
        assert compare_windows(a, b).ratios[-1].verdict == verdict


def test_windows_of_one_process_each_get_no_verdict_unless_that_is_allowed() -> None:
    marks = [at("x", 13 + 5 * n, 4.0) for n in range(5)]
    a, b = (
        made(seen_by(Waveform(watts)), marks, experiment_id=name, started=Start(name, WHOLE.start_ns, None))
        for name, watts in (("a", 100.0), ("b", 150.0))
    )
    energy, *_ = compare_windows(a, b).ratios
    assert energy.ratio.value == pytest.approx(1.5, rel=0.01)
    assert energy.verdict is None
    allowed, *_ = compare_windows(a, b, allow={"single_process"}).ratios
    assert allowed.verdict == "higher"


def test_what_has_nothing_in_common_is_refused() -> None:
    a = command_result("a", 200.0)
    with pytest.raises(ConfigError, match="same result"):
        compare_windows(a, a)
    trace = seen_by(Waveform(100.0))
    x, y = (made(trace, [at(name, 20, 5)], experiment_id=name) for name in ("x", "y"))
    with pytest.raises(ConfigError, match="no window is in both"):
        compare_windows(x, y)
    with pytest.raises(ConfigError, match="nothing in common"):
        compare_windows(a, x)
    none = made(trace, [at("x", 20, 5)], experiment_id="none", energy=MeterChoice())
    assert none.boundary is None
    with pytest.raises(ConfigError, match="method"):
        compare_windows(x, none)
    assert isinstance(trace.domains[0], Domain)


def test_a_recording_is_listed_as_what_it_is(tmp_path: Path) -> None:
    result_of(execute(tmp_path, "-n", "2", "--json", "-o", "out", "--", sys.executable, "-c", "pass\npass"))
    (entry,) = entries(tmp_path / "out")
    assert (entry.kind, entry.state, entry.figure) == ("command", "done", "–")
    assert entry.what.startswith("2 runs of ")
    assert "\n" not in entry.what


def test_a_command_that_ignores_the_end_is_killed(tmp_path: Path) -> None:
    line = "trap '' INT TERM; echo $$ > pid; sleep 321; sleep 322"
    with subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", "exec", "--", "sh", "-c", line],
        env=environ(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    ) as running:
        until = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert [one for one in psutil.process_iter() if _is_of(one, tmp_path)] == []


@pytest.mark.parametrize(
    ("silence_s", "said"), [(80.0, ", which waits 2.7 min more for the meter"), (0.55, "")]
)
def test_long_silences_around_each_run_are_said_when_it_begins(silence_s: float, said: str) -> None:
    told: list[str] = []
    tell: Any = told.append
    bench: Any = SimpleNamespace(silence_s=silence_s, run=lambda *_, counts: None)
    one: Any = SimpleNamespace(command=("sleep", "2"))
    _run_all(bench, [one], Wanted((("sleep", "2"),), runs=2), tell)
    assert told == [f"run {number} of 2{said}: sleep 2" for number in (1, 2)]


def test_a_folder_that_can_not_be_is_an_error_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = execute(tmp_path, "-o", "file", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("ResultError: the recording can't be written to ")


@pytest.mark.parametrize(
    ("pattern", "printed"),
    [
        (r"(-?\d+) tokens", "-3 tokens"),
        (r"(\S+) tokens", "inf tokens"),
        (r"(\S+) tokens", "nan tokens"),
        (r"(\S+) tokens", "9e999 tokens"),
        (r"(\d+) tokens|end", "5 tokens, end"),
    ],
)
def test_what_is_no_count_of_tokens_is_none(tmp_path: Path, pattern: str, printed: str) -> None:
    done = execute(tmp_path, "-n", "1", "--json", "--tokens", pattern, "--", "echo", printed)
    assert result_of(done)["windows"][0]["output_tokens"] is None
    assert "found no number in the output of 1 of 1 runs" in done.stderr


def test_what_one_look_can_not_see_is_missing_and_not_nothing(tmp_path: Path) -> None:
    done = execute(tmp_path, "-n", "2", "--json", "--tokens", r"(\d+) tokens", "--", "true")
    result = result_of(done)
    (command,) = result["windows"]
    assert command["energy_each"]["value"] is None
    assert "is more than it used" in command["energy_each"]["reason"]
    assert result["energy"]["value"] is not None
    assert r"--tokens '(\d+) tokens' found no number in the output of 2 of 2 runs" in done.stderr
