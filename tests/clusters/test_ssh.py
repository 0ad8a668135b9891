"""Workers by ssh, on an ssh server of this test."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cohort_engine import schema
from cohort_engine.config import compute_model
from cohort_engine.engine.clusters import Pool, make_pool
from cohort_engine.errors import ResourceError
from cohort_engine.single.process import Workplace

asyncssh = pytest.importorskip("asyncssh")
pytestmark = pytest.mark.timeout(900)  # a busy machine
WORKPLACE = Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1")))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings that reach a server on this machine, which runs what it is told."""
    mine, its = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    mine.write_private_key(str(tmp_path / "id"))
    (tmp_path / "authorized").write_bytes(mine.export_public_key())
    started: list[asyncio.subprocess.Process] = []

    async def handle(process: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        child = await asyncio.create_subprocess_shell(f"exec {process.command}", **pipes)
        started.append(child)
        await process.redirect(child.stdin, child.stdout, child.stderr)
        ways = [asyncio.ensure_future(way) for way in (child.wait(), process.wait_closed())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if child.returncode is None:  # who started it has gone
            child.kill()
        else:
            process.exit(child.returncode)
        await asyncio.wait(ways)

    async def listen() -> Any:
        where = {"server_host_keys": [its], "authorized_client_keys": str(tmp_path / "authorized"), "process_factory": handle}
        return await asyncssh.create_server(asyncssh.SSHServer, "127.0.0.1", 0, **where)

    async def stop() -> None:
        listener.close()
        await listener.wait_closed()
        await asyncio.wait_for(asyncio.gather(*(child.wait() for child in started)), 30)
        left = asyncio.all_tasks() - {asyncio.current_task()}  # handlers of connections whose other end has gone
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for child in started:
            child._transport.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listener = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    port = listener.get_port()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {its.export_public_key().decode()}")
    yield {"hosts": ["127.0.0.1"], "user": "anybody", "port": port, "keys": [str(tmp_path / "id")], "known_hosts": str(tmp_path / "known")}
    try:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def pool_of(ssh: dict[str, Any]) -> Pool:
    given = {"cluster": "ssh", "workers": 1, "gpus": 1, "memory": "1500 MiB", "gpu_memory": "1500 MiB", "ssh": ssh}
    return make_pool(compute_model().model_validate(given))


def test_work_with_and_without_a_gpu_runs_where_it_should(server: dict[str, Any]) -> None:
    def where(i: int) -> str:
        from distributed import get_worker

        return str(get_worker().name)

    pool = pool_of(server)
    try:
        pool.open(WORKPLACE)
        for i in range(3):
            pool.submit(where, i, key=f"plain-{i}", resources={}, retries=0)
            pool.submit(where, i, key=f"net-{i}", resources={schema.GPU: 1.0}, retries=0)
        found = {future.key: pool.outcome(future) for future in pool.completed()}
    finally:
        pool.close()
    assert found == {f"{kind}-{i}": name for kind, name in (("plain", "cpu-0"), ("net", "gpu-0")) for i in range(3)}


def test_a_machine_that_does_not_let_us_in_is_told_so(server: dict[str, Any], tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    with pytest.raises(ResourceError, match=r"compute.ssh: expected machines that let us in, found Permission denied.* Try `ssh` to each"):
        pool_of(server | {"keys": [str(tmp_path / "other")]}).open(WORKPLACE)
