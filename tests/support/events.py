"""Events that need no more than a number, in a registry of their own."""

from goevent import Event, EventRegistry

REGISTRY = EventRegistry()


class Ping(Event, name="test.ping", registry=REGISTRY):
    n: int = 0


class Pong(Event, name="test.pong", registry=REGISTRY):
    n: int = 0


class Job(Event, name="test.job", registry=REGISTRY):
    n: int = 0


class Other(Event, name="test.other", registry=REGISTRY):
    n: int = 0
