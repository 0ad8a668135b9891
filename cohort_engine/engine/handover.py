"""The worker of batch systems: when its life ends it takes no further task, finishes what it has begun, and hands its results over."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed import Worker
from distributed.core import Status

LOOK_SECONDS = 0.2
"""How often it is looked whether the last task has ended."""
AGAIN_SECONDS = 1.0
"""How often it is tried to hand results over while nobody is there to take them."""


class HandoverWorker(Worker):  # type: ignore[misc]
    """For ``dask worker --worker-class cohort_engine.engine.handover.HandoverWorker --lifetime ...``.

    Dask's own worker leaves with its task half done, which then begins anew elsewhere.
    """

    status: Any

    async def close_gracefully(self, restart: bool | None = None, reason: str = "worker-close-gracefully") -> None:
        """Leave after the task that runs and once somebody has its results; what waits here goes to other workers.

        Where all workers leave at once, those who follow are awaited: what one takes along would be done again.
        """
        if self.status != Status.running:
            await super().close_gracefully(restart=restart, reason=reason)
            return
        while self.status in (Status.running, Status.closing_gracefully):  # a scheduler that finds nobody for the results says: run on
            self.status = Status.closing_gracefully  # the scheduler is told, and sends nothing more
            while self.state.executing:
                await asyncio.sleep(LOOK_SECONDS)
            if await self.scheduler.retire_workers(workers=[self.address], close_workers=False, remove=True):
                break
            await asyncio.sleep(AGAIN_SECONDS)
        await self.close(nanny=not (self.lifetime_restart if restart is None else restart), reason=reason)


def life(seconds: float, handover: float) -> list[Any]:
    """Give the options of ``dask worker`` for a job of so many seconds, whose worker begins to leave `handover` seconds before the end.

    Half of that is kept for the task that runs; workers leave one after the other, over the other half.

    Examples
    --------
    >>> life(3600, 600)[2:]
    ['--lifetime', '3150s', '--lifetime-stagger', '150s']
    """
    stagger = handover / 4
    return [
        "--worker-class", f"{__name__}.{HandoverWorker.__name__}", "--lifetime", f"{seconds - handover + stagger:.0f}s", "--lifetime-stagger",
        f"{stagger:.0f}s",
    ]  # fmt: skip
