"""A process that answers or makes requests: `conversation_worker.py URL ROLE`.

With the role `answer` it holds each request for the seconds that the request names. With `ask` it
makes a request that such a process holds. With `pass` it answers a request with one of its own.
With `first` it answers `first.asked` with a request of `second.asked`, and with `second` the
opposite.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from goevent import Config, Event, EventRegistry, GoEvent, GoEventError, current_delivery
from tests.support.checks import ignore_error
from tests.support.streams_worker import say

HELD_NAME = "held.asked"
PASSED_NAME = "passed.asked"


async def hold(event: Any) -> dict[str, object]:
    """Answer after the number of seconds that the event names."""
    asked = event.payload()
    say("begun", asked["n"], current_delivery().deliveries)
    try:
        await trio.sleep(asked["seconds"])
    except trio.Cancelled:
        say("cancelled", asked["n"])
        raise
    left = trio.current_effective_deadline() - trio.current_time()
    return {"n": asked["n"], "left": min(left, 1e6)}


async def main(url: str, role: str) -> None:
    bus = GoEvent(Config(driver=url, registry=EventRegistry(), slow_after=None))
    bus.on_error(ignore_error)
    if role == "answer":
        bus.respond(hold, HELD_NAME, concurrency=20)
    elif role == "pass":

        @bus.responder(PASSED_NAME)
        async def ask_further(event: Any) -> dict[str, object]:
            await trio.sleep(1)
            return await bus.request(Event(HELD_NAME, event.payload()), dict[str, Any], timeout=100)

    elif role in ("first", "second"):
        other = "second" if role == "first" else "first"

        @bus.responder(f"{role}.asked")
        async def ask_the_other(event: Any) -> int:
            return await bus.request(Event(f"{other}.asked", {}), int, timeout=60)

    async with bus:
        say("ready")
        if role == "ask":
            try:
                event = Event(HELD_NAME, {"n": 1, "seconds": 60})
                say("answer", await bus.request(event, dict[str, Any], timeout=None))
            except GoEventError as error:
                say("error", type(error).__name__)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
