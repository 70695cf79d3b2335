"""Is what another host reads as good as what is read here, and what if that host is not what it should be?"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.boards.host import HostPower, SimulatedHostMeter
from benchmarks.virtual_run import Stage, VirtualRuns, virtual_experiment
from other_hosts import RECORD, in_namespace, plug_in, wave, why_no_namespace

from llenergymeasure.analysis.run_energy import counted_domains
from llenergymeasure.config.models import EnergyConfig, ExperimentConfig, HostConfig, config_hash
from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pool import summed
from llenergymeasure.energy.meters.device import Device, Question
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.energy.recording.trace import read_trace
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure import hosts, meters
from llenergymeasure.measure.hosts import HostMeter, with_hosts
from llenergymeasure.measure.marks import MARKS_VERSION
from llenergymeasure.measure.meters import FollowedDevice
from llenergymeasure.records import (
    Domain,
    DomainKind,
    EnergyReading,
    Estimate,
    Quantity,
    SessionFacts,
    Trace,
    Window,
)
from llenergymeasure.simulation.clock import VirtualClock

NOTHING = Selection((), "modelled", ())
HERE, THERE = "gpu:GPU-here", "node2/gpu:GPU-wave"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = plug_in(tmp_path)
    paths = [str(made), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return made


def host(*command: str, name: str = "node2") -> HostConfig:
    return HostConfig(name=name, command=command)


def speaker(folder: Path, *lines: dict[str, object] | str, then: str = "sys.stdin.read()") -> HostConfig:
    """A command that says these lines, and then does something."""
    said = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    script = folder / "speaker.py"
    script.write_text(f"import sys, time\nprint({chr(10).join(said)!r}, flush=True)\n{then}\n")
    return host(sys.executable, str(script))


def recorded(site: Path, folder: Path, remote: HostConfig, *, seconds: float) -> tuple[Trace, Window]:
    """The same board read here and there, and a window in the middle."""
    both = [wave(site), HostMeter(remote)]
    with Recorder(both, clock=time, directory=folder) as recorder:
        recorder.dense(True)
        time.sleep(1.0)
        start_ns = time.monotonic_ns()
        time.sleep(seconds)
        window = Window(start_ns, time.monotonic_ns())
        time.sleep(0.5)
        asked = recorder.trace(windows=[window])
        assert window_energy(asked, THERE, window).joules is not None
    return recorder.trace(), window


@pytest.mark.skipif(why_no_namespace() is not None, reason=str(why_no_namespace()))
@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_joules_are_those_read_here_although_its_clock_is_off_by_a_thousand_seconds(
    site: Path, tmp_path: Path, delay_s: float
) -> None:
    slow = (sys.executable, str(tmp_path / "delay.py"), str(delay_s)) if delay_s else ()
    remote = host(*slow, *in_namespace(*RECORD))
    trace, window = recorded(site, tmp_path, remote, seconds=8.0)
    assert not trace.gaps
    here, there = (window_energy(trace, name, window) for name in (HERE, THERE))
    assert here.joules is not None
    assert there.joules == pytest.approx(here.joules, rel=1e-3)
    unsure_s = [trace.clocks["node2"].half_s(edge) for edge in (window.start_ns, window.end_ns)]
    assert max(unsure_s) < 0.005 + delay_s
    (by_clock,) = [term.half_width_j for term in there.terms if term.name == "clock"]
    # The board draws 100 to 300 W.
    assert 80 * min(unsure_s) < by_clock < 600 * max(unsure_s)


def test_a_banner_before_the_recorder_speaks_is_no_part_of_the_protocol(site: Path, tmp_path: Path) -> None:
    (tmp_path / "login.sh").write_text(f"echo 'Welcome to node2 {{42}}'\necho\nexec {' '.join(RECORD)}\n")
    with HostMeter(host("sh", str(tmp_path / "login.sh"))) as meter:
        assert [domain.name for domain in meter.domains()] == [THERE]
        assert meter.domains()[0].host == "node2"


def test_another_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    old = speaker(tmp_path, {"say": "hello", "version": 1, "pid": 1, "t_ns": 1})
    with pytest.raises(EnergyError, match=rf"node2 speaks version 1 .*speaks {MARKS_VERSION}"):
        with_hosts(NOTHING, [old], must_answer=True)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("no-such-program-of-llem",), "No such file"),
        (("sh", "-c", "echo 'Permission denied (publickey).' >&2; exit 255"), "255: Permission denied"),
        (("sh", "-c", "echo 'command not found'; exit 127"), "127: command not found"),
    ],
)
def test_a_command_that_starts_no_recorder_says_what_came_instead(command: Sequence[str], why: str) -> None:
    with pytest.raises(EnergyError) as caught:
        with_hosts(NOTHING, [host(*command)], must_answer=True)
    assert why in caught.value.message
    assert "by hand" in str(caught.value.hint)


def test_a_recorder_that_refuses_is_quoted(tmp_path: Path) -> None:
    refusing = speaker(
        tmp_path,
        {"say": "hello", "version": MARKS_VERSION},
        {
            "say": "refused",
            "error": "EnergyError",
            "message": "no meter is named 'x'",
            "hint": "one of: auto",
        },
    )
    with pytest.raises(EnergyError, match="no meter is named 'x'"):
        with_hosts(NOTHING, [refusing], must_answer=True)


def test_a_host_without_a_meter_is_left_out_with_the_reason_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    chosen = with_hosts(NOTHING, [host(*RECORD, "--meter", "estimate")], must_answer=True)
    assert chosen.meters == ()
    assert [name for name, _ in chosen.unread] == ["node2/host"]


def test_a_host_that_was_there_in_an_earlier_run_costs_its_part_only() -> None:
    chosen = with_hosts(NOTHING, [host("false")], must_answer=False)
    ((name, why),) = chosen.unread
    assert (name, why.partition(":")[0]) == ("node2/host", "host_lost")


def test_a_host_that_is_lost_leaves_a_gap_with_its_reason_and_what_was_read_until_then(
    site: Path, tmp_path: Path
) -> None:
    meter = HostMeter(host("sh", "-c", f"echo $$ >{tmp_path}/pid; exec {' '.join(RECORD)}"))
    recorder = Recorder([wave(site), meter], clock=time, directory=tmp_path)
    with recorder:
        recorder.dense(True)
        time.sleep(1.5)
        before_ns = time.monotonic_ns()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        time.sleep(1.5)
    trace = read_trace(tmp_path / "power.parquet")
    (gap,) = trace.gaps
    assert gap.domain == THERE
    assert gap.reason.startswith("host_lost: ")
    assert abs(gap.window.start_ns - before_ns) < 500_000_000
    assert gap.window.duration_s > 1.0
    lost = window_energy(trace, THERE, Window(before_ns - 1_200_000_000, before_ns + 1_200_000_000))
    assert lost.joules is None
    assert "host_lost" in str(lost.reason)
    kept = window_energy(trace, HERE, Window(before_ns - 1_200_000_000, before_ns + 1_200_000_000))
    assert kept.joules == pytest.approx(2.4 * 200, rel=0.5)
    assert trace.series[THERE, "energy"].raw.size > 5


@pytest.mark.parametrize("jump_s", [30, -30])
def test_a_clock_that_jumps_is_a_gap(tmp_path: Path, jump_s: int) -> None:
    domain = {
        "name": "gpu:GPU-x",
        "kind": "gpu",
        "quantities": [{"name": "energy", "source": "x", "unit": "J", "scale": 0.001}],
    }
    # It answers as a recorder does, and its clock jumps after two seconds.
    jumping = speaker(
        tmp_path,
        {"say": "hello", "version": MARKS_VERSION},
        {"say": "ready"},
        then=f"""
import json
began = time.monotonic()
def now():
    return time.monotonic_ns() + ({jump_s} * 1_000_000_000 if time.monotonic() > began + 2 else 0)
def say(**said):
    print(json.dumps(said), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "clock":
        say(say="clock", id=asked["id"], t_ns=now())
        t = now()
        say(say="samples", rows=[0, t, t, t // 5_000_000], gaps=[])
    elif asked["do"] == "stream":
        say(say="streaming", domains=[{domain!r}])
    elif asked["do"] == "catch_up":
        say(say="caught_up", id=asked["id"])
""",
    )
    with Recorder([HostMeter(jumping)], clock=time, directory=tmp_path) as recorder:
        time.sleep(4.0)
    gap = recorder.trace().gaps[0]
    assert (gap.domain, gap.reason.partition(":")[0]) == ("node2/gpu:GPU-x", "host_clock_jumped")
    assert gap.window.duration_s < 2.5


def test_the_recorder_there_ends_with_the_pipe(site: Path, tmp_path: Path) -> None:
    meter = HostMeter(host("sh", "-c", f"echo $$ >{tmp_path}/pid; exec {' '.join(RECORD)}"))
    threads = threading.active_count()
    with meter:
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_hosts_have_names_of_their_own_and_the_way_to_them_is_no_part_of_the_experiment() -> None:
    with pytest.raises(ValueError, match="two hosts are named a"):
        EnergyConfig(hosts=(host("x", name="a"), host("y", name="a")))
    with pytest.raises(ValueError, match="name"):
        host("x", name="a/b")
    with pytest.raises(ValueError, match="is named here"):
        EnergyConfig(hosts=(host("x", name="here"),))
    one, other = (
        ExperimentConfig(model="m", energy=EnergyConfig(hosts=(HostConfig(name="node2", command=command),)))
        for command in ("ssh node2 llem record", "srun -w node2 llem record")
    )
    assert one.energy.hosts[0].arguments == ("ssh", "node2", "llem", "record")
    assert config_hash(one) == config_hash(other) != config_hash(ExperimentConfig(model="m"))


def domain(name: str, kind: DomainKind, host: str | None = None) -> Domain:
    return Domain(name if host is None else f"{host}/{name}", kind, (), host=host)


def test_what_counts_of_other_hosts_is_what_does_the_work() -> None:
    seen = [
        domain("gpu:a", "gpu"),
        domain("cpu:0", "cpu"),
        *(domain(name, "gpu", "node2") for name in ("gpu:b", "gpu:c")),
        domain("cpu:0", "cpu", "node2"),
        domain("gpu:d", "gpu", "node3"),
        domain("module:d", "module", "node3"),
    ]
    config = ExperimentConfig(model="m")

    def counted(**facts: Any) -> list[str]:
        made = SessionFacts("cuda:0", {}, {}, **facts)
        return [one.name for one in counted_domains(seen, config, made)]

    rest = ["node2/gpu:b", "node2/gpu:c", "node2/cpu:0", "node3/gpu:d"]
    # A server elsewhere: nothing of this host, all of the others, and no module beside its GPU.
    assert counted(why_unmetered="the server is on another host") == rest
    # An engine over several nodes that names its GPUs.
    assert counted(gpu_uuids=("a", "b")) == ["gpu:a", "cpu:0", "node2/gpu:b", "node2/cpu:0", "node3/gpu:d"]
    assert counted() == ["cpu:0", *rest]


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ("auto", ["gpu:a", "cpu:0", "node2/gpu:b", "node2/cpu:0", "node3/wall"]),
        ("parts", ["gpu:a", "cpu:0", "node2/gpu:b", "node2/cpu:0"]),
        ("gpu", ["gpu:a", "node2/gpu:b"]),
        ("wall", ["wall", "node2/wall", "node3/wall"]),
        # Of two hosts nothing reads it.
        ("host", []),
        ("gpu+cpu+dram", []),
    ],
)
def test_a_boundary_takes_each_host_by_itself_and_none_may_lack_what_every_host_has(
    asked: str, counted: list[str]
) -> None:
    seen = [
        domain("gpu:a", "gpu"),
        domain("cpu:0", "cpu"),
        domain("wall", "wall"),
        domain("gpu:b", "gpu", "node2"),
        domain("cpu:0", "cpu", "node2"),
        domain("host", "host", "node2"),
        domain("wall", "wall", "node2"),
        domain("wall", "wall", "node3"),
    ]
    assert [one.name for one in within(seen, asked)] == counted
    if counted:
        one = Estimate(1.0, "J", 0.9, 1.1)
        readings = [EnergyReading(name, "s", "counter", Window(0, 1), one) for name in counted]
        assert [reading.domain for reading in summed(readings)] == counted


def test_memory_of_a_host_without_a_gpu_is_in_the_sum_of_gpu_cpu_and_dram() -> None:
    names: list[tuple[str, DomainKind]] = [("gpu:a", "gpu"), ("cpu:0", "cpu"), ("dram:0", "dram")]
    seen = [*(domain(*one, "node2") for one in names), *(domain(*one, "router") for one in names[1:])]
    assert list(within(seen, "gpu+cpu+dram")) == seen
    assert within([*seen, domain("cpu:0", "cpu", "node3")], "gpu+cpu+dram") == ()


class Known(HostMeter):
    """A host that was reached and reads what it is said to."""

    def __init__(self, *found: Domain) -> None:
        super().__init__(host("true"))
        self._domains = found


@pytest.mark.parametrize(
    ("boundary", "here", "there", "refused"),
    [
        ("wall", ["gpu"], ["gpu", "wall"], False),
        ("wall", ["gpu", "wall"], ["gpu", "wall"], False),
        ("wall", ["gpu", "wall"], ["gpu"], True),
        ("wall", ["gpu"], ["gpu"], True),
        ("gpu", ["gpu"], ["cpu"], False),
        ("gpu", [], ["gpu"], False),
        ("gpu", ["cpu"], ["cpu"], True),
        ("auto", [], [], False),
    ],
)
def test_a_boundary_is_refused_before_the_run_where_the_hosts_do_not_read_it(
    monkeypatch: pytest.MonkeyPatch, boundary: Any, here: list[Any], there: list[Any], refused: bool
) -> None:
    mine = Selection((), "measured", (), domains=tuple(domain(kind, kind) for kind in here))

    def chosen(energy: EnergyConfig, **_: object) -> Selection:
        assert energy.boundary == "auto"
        return mine

    def reached(found: Selection, *_: object, **__: object) -> Selection:
        return replace(found, meters=(Known(*(domain(kind, kind, "node2") for kind in there)),))

    monkeypatch.setattr(meters, "choose_meters", chosen)
    monkeypatch.setattr(hosts, "with_hosts", reached)
    config = ExperimentConfig(model="m", energy=EnergyConfig(boundary=boundary, hosts=(host("true"),)))
    if not refused:
        assert meters.meters_for(config, processes=list, device=None).domains == mine.domains
        return
    with pytest.raises(EnergyError, match=f"energy.boundary is {boundary}.* is read"):
        meters.meters_for(config, processes=list, device=None)


class Node(SimulatedHostMeter):
    """A controller on another host, and a GPU there that draws what the one here does."""

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:
        _, (whole,) = super()._open(stack)
        energy = Quantity("energy", "simulated.gpu", "J", 1e-3)

        def millijoules() -> int:
            now_ns = self._clock.monotonic_ns()
            return round(self._power.gpu.energy_j(0, now_ns - now_ns % 20_000_000) * 1e3)

        questions = [
            Question("node2/host", whole.quantities[0], self._watts),
            Question("node2/gpu:there", energy, millijoules),
        ]
        found = [Device([one], errors=(), silent="", clock=self._clock) for one in questions]
        found[0].period_s = 0.5
        gpu = Domain("node2/gpu:there", "gpu", (energy,), host="node2", role="decode")
        return found, [replace(whole, name="node2/host", host="node2", role="decode"), gpu]


def test_boundaries_stand_side_by_side_over_several_hosts_with_the_joules_of_each() -> None:
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 2,
            "max_output_tokens": 8,
            "passes": {"count": 3, "seconds": 4, "prefill": 0},
            "baseline": {"seconds": 0},
        }
    )

    def stage(config: ExperimentConfig, number: int) -> Stage:
        clock = VirtualClock()
        device = FollowedDevice(config, clock=clock, run=number)
        power = HostPower(device.nvml.gpus[0].power)
        kinds = (SimulatedHostMeter, Node)
        both = [kind(power, step_s=1.0, window_s=1.0, phase_s=0.1, lag_s=0.1, clock=clock) for kind in kinds]
        return Stage(clock, device.nvml, device.enter, tuple(both))

    energy = virtual_experiment(config, VirtualRuns(stage=stage, tick_s=0.005)).energy
    gpus, whole = energy.boundaries
    assert [one.boundary for one in energy.boundaries] == ["gpu of here, node2", "host of here, node2"]
    assert energy.boundary == gpus.boundary
    assert energy.valid
    here, there = energy.hosts
    assert [(one.role, one.hosts) for one in energy.hosts] == [(None, ("here",)), ("decode", ("node2",))]
    assert here.total.value == pytest.approx(there.total.value, rel=0.01)
    assert (here.total.value or 0) + (there.total.value or 0) == pytest.approx(energy.total.value)
    assert whole.to_gpu is not None
    assert whole.to_gpu.value == pytest.approx((whole.total.value or 0) / (gpus.total.value or 1))
    assert {reading.domain for reading in whole.readings} == {"host", "node2/host"}
