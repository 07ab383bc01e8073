"""Redis Streams, with an append-only file."""

import time

import redis

from benchmarks.brokers.redis_server import redis_server
from benchmarks.chaos.servers.contract import EVENT_NAME, GROUP

MAX_WRITE_DELAY_SECONDS = 5.0


class StreamsServer:
    """A Redis server with one stream, or with one for each partition.

    Args:
        fsync: The policy of the append-only file.
        partitions: The number of partitions; 1 for none.
    """

    def __init__(self, fsync: str = "everysec", partitions: int = 1) -> None:
        self.process = redis_server(fsync)
        self._partitions = partitions

    @property
    def url(self) -> str:
        """The URL of a bus without a group."""
        return f"redis+streams://{self.process.addr}?partitions={self._partitions}"

    def prepare(self) -> None:
        """Return at once: the buses create what they need."""

    def await_writes(self) -> None:
        """Wait until the server writes to its append-only file before it replies.

        With `everysec`, a server delays its writes for up to two seconds while the disk is busy
        with the last fsync. A kill in that time loses accepted events; that is the server's promise
        and not ours.
        """
        with redis.Redis(port=self.process.port) as client:
            deadline = time.monotonic() + MAX_WRITE_DELAY_SECONDS
            while client.info("persistence").get("aof_pending_bio_fsync"):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)

    def unsettled(self) -> int:
        """Return how many entries are pending, and how many streams are not read to their end."""
        stream = f"goevent:stream:{EVENT_NAME}"
        numbers = range(self._partitions)
        streams = [f"{stream}:{number}" for number in numbers] if len(numbers) > 1 else [stream]
        with redis.Redis(port=self.process.port) as client:
            return sum(self._left(client, each) for each in streams)

    def _left(self, client: redis.Redis, stream: str) -> int:
        newest = client.xinfo_stream(stream)["last-generated-id"]
        for group in client.xinfo_groups(stream):
            if group["name"] == GROUP.encode():
                # Not the lag: a restarted server does not know it.
                return int(group["pending"]) or int(group["last-delivered-id"] != newest)
        return 1
