"""Starts commands and waits for them, in a small process that does nothing else.

A command's peak memory, as the kernel has it, is at least that of the process that started it. So this is
run as `python -I -S` on this file and imports nothing of llem. One JSON object a line, each way:
{"argv", "output"} starts a command and is answered with its pid and the time, then with the time of its end;
an empty line reaps it and is answered with what it used. What stays below this process's own peak is looked
for in /proc while the command runs.
"""

import json
import os
import select
import sys
import time

_KIB = 1 if sys.platform == "darwin" else 1024
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.1


def _say(**values: int) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def _seen_bytes(pid: int | str) -> int | None:
    """The peak of a program so far. What the kernel counts of its process may be that of who started it."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123  pathlib is no small import
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def _own_bytes() -> int:
    seen = _seen_bytes("self")
    if seen is None:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return seen


def _watch(pid: int, own: int) -> int:
    """Its highest peak that was seen, 0 where none was: looked for ever less often, until it has ended or its
    peak is above `own`, from where on the kernel's account of it is its own.
    """
    seen, wait_s = 0, _FIRST_LOOK_S
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return 0
    with os.fdopen(handle, "rb", buffering=0) as process:
        while seen <= own and not select.select([process], [], [], wait_s)[0]:
            seen, wait_s = _seen_bytes(pid) or seen, min(2 * wait_s, _LAST_LOOK_S)
    return seen


def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        own = _own_bytes()
        start_ns = time.monotonic_ns()
        try:
            pid = os.posix_spawnp(
                wanted["argv"][0],
                wanted["argv"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, wanted["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
            )
        except OSError as error:
            _say(errno=error.errno or 0)
            continue
        _say(pid=pid, t_ns=start_ns)
        seen = _watch(pid, own)
        # It stays a zombie, whose processor time can still be read, until the answer has come.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        _say(t_ns=time.monotonic_ns())
        sys.stdin.readline()
        _, status, used = os.wait4(pid, 0)
        code, peak = os.waitstatus_to_exitcode(status), used.ru_maxrss * _KIB
        # The first start takes memory of its own, after the look before it.
        own = max(own, _own_bytes())
        _say(exit_code=code, peak_bytes=peak, own_bytes=own, seen_bytes=seen)


if __name__ == "__main__":
    main()
