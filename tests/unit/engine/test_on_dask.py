"""What a pool on dask says when its scheduler is gone: one error, however dask tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from distributed.client import ClosedClientError

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.on_dask import DaskPool
from cohort_engine.errors import ResourceError

GONE = OSError("Timed out trying to connect to tcp://10.0.0.1:8786 after 120 s")


class Joined(DaskPool):
    def _join(self, *of: object) -> Any:
        return None  # joined already


def raising(error: Exception) -> Any:
    def call(*args: object, **more: object) -> None:
        raise error

    return call


def ended(**client: Any) -> Joined:
    """A pool of one call that has ended well, whose result nobody has fetched yet."""
    pool = Joined(ComputeConfig())
    pool.client = SimpleNamespace(status="connecting", **client)
    call = pool.submit(len, "", key="a", resources={}, retries=0)
    call.future = SimpleNamespace(key="a", status="finished", result=raising(GONE))
    pool.unsent.clear()
    return pool


@pytest.mark.parametrize("error", [GONE, ClosedClientError("Client is closed.")])
def test_results_cannot_be_fetched(error: Exception) -> None:
    pool = ended(gather=raising(error))
    with pytest.raises(ResourceError, match=f"expected a running scheduler, found {error}"):
        list(pool.completed())


def test_a_result_cannot_be_fetched_again() -> None:
    """A connection breaks while results come, and is not made again."""
    from distributed.comm import CommClosedError

    pool = ended(gather=raising(CommClosedError("closed")))
    [call] = pool.completed()
    with pytest.raises(ResourceError, match="expected a running scheduler, found Timed out"):
        pool.outcome(call)


@pytest.mark.parametrize("error", [GONE, ClosedClientError("Client is closed.")])
def test_calls_cannot_be_sent(error: Exception) -> None:
    pool = ended(get=raising(error))
    pool.submit(len, "", key="b", resources={}, retries=0)
    with pytest.raises(ResourceError, match="expected a running scheduler"):
        list(pool.completed())


def test_offers_cannot_be_asked_for() -> None:
    pool = ended(scheduler_info=raising(GONE))
    with pytest.raises(ResourceError, match="expected a running scheduler"):
        pool.submit(len, "", key="b", resources={"gpu": 1}, retries=0)
