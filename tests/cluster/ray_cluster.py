"""A Ray of two nodes on this machine, in a process of its own: `python ray_cluster.py GPUS`.

It prints the address. The second node is removed, as a machine that dies, by a line `lose` on stdin, after
another one has taken its place. The first node runs nothing, so that the run in flight is on the lost one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STORE_BYTES = 80_000_000


class Cluster:
    """`nodes` is the folder in which its nodes make their runs, `second` the address of the second node."""

    def __init__(self, process: subprocess.Popen[str], nodes: Path, address: str) -> None:
        self._process, self.nodes, self.address = process, nodes, address
        self._number = 3

    @property
    def second(self) -> str:
        return f"127.0.0.{self._number}"

    def lose_node(self) -> None:
        """Returns once it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "lost\n"
        self._number += 1

    @property
    def runs(self) -> list[Path]:
        """The folders of runs that are under way."""
        return list(self.nodes.glob("llem-ray-*/*/runs/*.part"))


@contextmanager
def cluster(nodes: Path, *, site: Path, gpus: int = 0) -> Iterator[Cluster]:
    """Ended on leaving, with all of its processes. They find packages in `site` also.

    `gpus` is what each node says to have, which nothing checks.
    """
    paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])
    environment = os.environ | {"PYTHONPATH": paths, "TMPDIR": str(nodes)}
    process = subprocess.Popen(
        [sys.executable, __file__, str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment | {"RAY_TMPDIR": "/tmp"},  # paths of sockets are short
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "Ray does not start"
        yield Cluster(process, nodes, address)
    finally:
        process.communicate()


def main() -> None:
    from ray.cluster_utils import Cluster

    # 127.0.0.1 is taken for the outer address, where nothing listens.
    nodes = Cluster()
    each = {"num_gpus": int(sys.argv[1]), "object_store_memory": STORE_BYTES}
    nodes.add_node(num_cpus=0, node_ip_address="127.0.0.2", include_dashboard=False, **each)
    second = nodes.add_node(num_cpus=1, node_ip_address="127.0.0.3", **each)
    print(nodes.address, flush=True)
    for number, _ in enumerate(sys.stdin, 4):
        third = nodes.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}", **each)
        nodes.remove_node(second, allow_graceful=False)
        second = third
        print("lost", flush=True)
    nodes.shutdown()


if __name__ == "__main__":
    main()
