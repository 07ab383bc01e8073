"""MQTT with Mosquitto, which keeps nothing on disk."""

from benchmarks.brokers.servers import mosquitto_server


class MqttServer:
    """A Mosquitto of one run."""

    def __init__(self) -> None:
        self.process = mosquitto_server()

    @property
    def url(self) -> str:
        """The URL of a bus without a group."""
        return f"mqtt://{self.process.addr}?prefix=chaos."

    def prepare(self) -> None:
        """Return at once: the buses create what they need."""

    def await_writes(self) -> None:
        """Return at once: the server writes nothing, and a kill empties it."""

    def unsettled(self) -> None:
        """Return None: the server has no count for a group."""
