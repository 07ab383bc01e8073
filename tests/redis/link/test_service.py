"""Services: a link and a pool that run together, and their cancellation."""

from __future__ import annotations

import trio
from tests.support.steps import cancel_at_every_step

from goevent_redis._link.service import running_link_and_pool


class Busy:
    """A service that is at a checkpoint whenever another task runs."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            await trio.lowlevel.cancel_shielded_checkpoint()


async def test_link_that_is_at_a_checkpoint_ends_when_the_start_is_cancelled() -> None:
    async def start_and_stop() -> None:
        async with running_link_and_pool(Busy(), Busy()):
            await trio.lowlevel.checkpoint()

    await cancel_at_every_step(start_and_stop, runs=20)
