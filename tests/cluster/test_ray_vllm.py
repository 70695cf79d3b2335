"""One model that vLLM spreads over the two nodes of a Ray, with a recorder on each. On processors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from ray_cluster import Cluster, cluster
from small_study import ended, llem, wait

from llenergymeasure.models.gguf import converted
from llenergymeasure.models.resolve import resolve

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from other_hosts import RECORD, plug_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("vllm") is None,
        reason="needs vLLM and Ray (make test-ray-vllm)",
    ),
]

# vLLM refuses Ray on processors for want of the name of what Ray should give out. The rest of it works.
PLATFORM = """
import vllm.platforms.interface
from vllm.platforms.cpu import CpuPlatform

class OnRay(CpuPlatform):
    ray_device_key = "GPU"
    device_control_env_var = "CUDA_VISIBLE_DEVICES"

def name(): return "vllm_cpu_on_ray.OnRay"
"""
# Without a warm-up, which eager execution skips, the second half of the model finds no place for its input.
COMPILED_BY_NOBODY = '{"mode": 1, "backend": "eager"}'
WORDS = ("Energy", "is", "what", "a", "model", "of", "two", "halves", "draws", "twice")


def platform(site: Path) -> None:
    info = site / "vllm_cpu_on_ray-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu-on-ray\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vllm.platform_plugins]\nonray = vllm_cpu_on_ray:name\n")
    (site / "vllm_cpu_on_ray.py").write_text(PLATFORM)


@contextmanager
def served(ray: Cluster, site: Path, log: Path) -> Iterator[str]:
    """The small model in two halves, one on each node; where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    weights = resolve("smollm2-135m").path
    assert weights is not None
    command = [
        *(
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ),
        *(
            "--model",
            str(converted(weights)),
            "--served-model-name",
            "smollm2-135m",
            "--max-model-len",
            "512",
        ),
        *("--distributed-executor-backend", "ray", "--pipeline-parallel-size", "2"),
        *("--compilation-config", COMPILED_BY_NOBODY),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), *(path for path in sys.path if path)]),
        "RAY_ADDRESS": ray.address,
        "VLLM_HOST_IP": "127.0.0.2",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert server.poll() is None, log.read_text()[-4000:]
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
        return False

    try:
        wait(is_up, "vLLM does not come up", within_s=400)
        yield url
    finally:
        server.terminate()
        server.wait()


def nodes_with_a_part_of_the_model() -> set[int]:
    """Ray's daemon of each."""
    return {one.ppid() for one in psutil.process_iter() if one.name().startswith("ray::RayWorkerP")}


def test_each_node_that_holds_a_part_of_a_model_is_recorded(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    site = plug_in(tmp_path)
    platform(site)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": " ".join(WORDS[n:])}) + "\n" for n in range(4)))
    others = nodes_with_a_part_of_the_model()
    with (
        cluster(tmp_path_factory.mktemp("nodes"), site=site, gpus=1) as ray,
        served(ray, site, tmp_path / "vllm.log") as url,
    ):
        assert len(nodes_with_a_part_of_the_model() - others) == 2
        recorder = [f"RAY_ADDRESS={ray.address}", *RECORD, "--meter", "wave", "--shared", "--ray-node"]
        config = tmp_path / "experiment.yaml"
        asked = {
            "model": "smollm2-135m",
            "backend": "openai",
            "dataset": str(prompts),
            "n": 4,
            "max_output_tokens": 8,
            "openai": {"base_url": url},
            "load": {"concurrency": 2},
            "passes": {"seconds": 2.0, "count": 2},
            "repeats": {"count": 1},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 5.0},
            "energy": {
                "hosts": [
                    {"name": "node1", "command": ["env", *recorder, "127.0.0.2"]},
                    {"name": "node2", "command": ["env", *recorder, ray.second]},
                ]
            },
        }
        config.write_text(json.dumps(asked))
        code, out, err = ended(llem("run", str(config), "--json"))
    assert code == 0, err
    result = json.loads(out)
    energy = result["energy"]
    parts = {one["hosts"][0]: one["total"]["value"] for one in energy["hosts"] if one["hosts"] != ["here"]}
    assert set(parts) == {"node1", "node2"}
    assert parts["node1"] == pytest.approx(parts["node2"], rel=0.02)
    assert result["tokens"]["output"] > 0
