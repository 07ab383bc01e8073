"""NATS JetStream, with a stream on disk."""

import json
from urllib.request import urlopen

from benchmarks.brokers.server_process import free_port
from benchmarks.brokers.servers import nats_server

ASK_SECONDS = 10.0


class JetStreamServer:
    """A NATS server whose monitoring tells what its consumers have not acknowledged."""

    def __init__(self) -> None:
        self._monitoring_port = free_port()
        self.process = nats_server("-m", str(self._monitoring_port))

    @property
    def url(self) -> str:
        """The URL of a bus without a group."""
        return f"nats+js://{self.process.addr}?stream=chaos"

    def prepare(self) -> None:
        """Return at once: the buses create what they need."""

    def await_writes(self) -> None:
        """Return at once: what the server has written survives the end of its process."""

    def unsettled(self) -> int:
        """Return how many events are not delivered, or not acknowledged."""
        ask = f"http://127.0.0.1:{self._monitoring_port}/jsz?consumers=true"
        with urlopen(ask, timeout=ASK_SECONDS) as answer:
            accounts = json.load(answer).get("account_details", [])
        consumers = [
            consumer
            for account in accounts
            for stream in account.get("stream_detail", [])
            if stream["name"] == "chaos"
            for consumer in stream.get("consumer_detail", [])
        ]
        if not consumers:
            return 1
        return sum(each["num_pending"] + each["num_ack_pending"] for each in consumers)
