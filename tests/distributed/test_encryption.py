"""Parts of a cluster that show each other certificates, and let nobody else in."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from cohort_engine.config import ComputeConfig, compute_model
from cohort_engine.engine.clusters import make_pool
from cohort_engine.engine.clusters.encryption import CERTIFICATE, KEY, make_certificate, security_of
from cohort_engine.errors import ConfigError
from cohort_engine.single.process import Workplace


def compute(**options: object) -> ComputeConfig:
    return compute_model().model_validate({"workers": 1, "memory": "1 GiB", **options})


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert security_of(compute()) is None
    security_of(compute(tls=True))
    folder = tmp_path / ".cohort-engine" / "tls"
    key = (folder / KEY).read_text()
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    security_of(compute(tls=True))
    assert (folder / KEY).read_text() == key
    os.utime(folder / CERTIFICATE, (0, 0))  # old: it will not hold for long
    security_of(compute(tls=True))
    assert (folder / KEY).read_text() != key


def test_a_folder_without_a_certificate_and_a_key_that_all_may_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cert\.pem and key\.pem"):
        security_of(compute(tls=str(tmp_path)))
    make_certificate(tmp_path)
    (tmp_path / KEY).chmod(0o644)
    with pytest.raises(ConfigError, match="a key that only its owner may read"):
        security_of(compute(tls=str(tmp_path)))


@pytest.mark.distributed
def test_a_cluster_with_certificates_works_and_a_stranger_is_not_let_in(tmp_path: Path) -> None:
    from distributed.comm import connect
    from distributed.security import Security

    make_certificate(tmp_path / "ours")
    make_certificate(tmp_path / "theirs")
    pool = make_pool(compute(tls=str(tmp_path / "ours")))
    try:
        pool.open(Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1"))))
        address = pool.client.scheduler.address
        assert address.startswith("tls://127.0.0.1")
        assert all(w.startswith("tls://") for w in pool.client.scheduler_info()["workers"])
        future = pool.submit(abs, -3, key="abs", resources={}, retries=0)
        assert [pool.outcome(f) for f in pool.completed()] == [3]
        del future
        stranger = security_of(compute(tls=str(tmp_path / "theirs")))
        for security in (Security(), stranger):
            with pytest.raises((OSError, RuntimeError, TypeError)):
                asyncio.run(connect(address, timeout=2, **security.get_connection_args("client")))
        beside = make_pool(compute(tls=str(tmp_path / "ours"), cluster="address", address=address))
        beside.open(Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1"))))
        beside.close()
    finally:
        pool.close()
