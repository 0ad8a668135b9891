"""The commands of the pods are run as the manifests have them: a scheduler, a worker, a worker that offers a GPU; work goes where it belongs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cohort_engine import schema
from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters import make_pool, manifests
from cohort_engine.single.process import Workplace

pytestmark = pytest.mark.timeout(900)  # a busy machine
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pod(command: list[str], **environment: str) -> Iterator[None]:
    """Run a command of ``args``, with what Kubernetes fills in."""
    filled = [re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], word) for word in command]
    assert filled[0] == "dask"
    known = os.environ | environment | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", *filled], env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_work_with_and_without_a_gpu_goes_to_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "SCHEDULER_PORT", free_port())
    monkeypatch.setattr(manifests, "PAGE_PORT", free_port())
    address = f"tcp://127.0.0.1:{manifests.SCHEDULER_PORT}"

    def where() -> str:
        from distributed import get_worker

        return str(get_worker().name)

    with ExitStack() as stack:
        stack.enter_context(pod(manifests.scheduler_command()))
        for name, resources in (("plain", {"cpu": 1.0}), ("net", {schema.GPU: 1.0})):
            command = [*manifests.worker_command(resources), "--name", "$(DASK_WORKER_NAME)"]
            stack.enter_context(pod(command, DASK_SCHEDULER_ADDRESS=address, DASK_WORKER_NAME=name))
        pool = make_pool(ComputeConfig(cluster="address", address=address, patience=120))
        stack.callback(pool.close)
        pool.open(Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1"))))
        pool.client.wait_for_workers(2, timeout=120)
        pool.open(Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1"))))  # now that both are there
        for i in range(3):
            pool.submit(where, key=f"plain-{i}", resources={}, retries=0)
            pool.submit(where, key=f"net-{i}", resources={schema.GPU: 1.0}, retries=0)
        assert {f.key: pool.outcome(f) for f in pool.completed()} == {f"{name}-{i}": name for name in ("plain", "net") for i in range(3)}
