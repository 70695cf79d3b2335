"""zeus, as its own documentation uses it: one ZeusMonitor, begin_window and end_window around the work."""

from __future__ import annotations

from windows import measure

if __name__ == "__main__":  # the monitor may spawn processes that import this module again
    from zeus.monitor import ZeusMonitor

    # There is no CPU work here to synchronise with, and the CPU's own energy is not what is compared.
    monitor = ZeusMonitor(cpu_indices=[])

    def begin() -> None:
        monitor.begin_window("window", sync_execution=False)

    def end(_: None) -> float:
        return float(monitor.end_window("window", sync_execution=False).total_energy)

    measure(begin, end)
