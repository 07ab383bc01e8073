"""Durable events over Redis Streams: at least once, for each group of consumers."""

from ._config import StreamsConfig as StreamsConfig
from ._dead_letters import DeadLetter as DeadLetter, DeadLetters as DeadLetters
from ._driver import RedisStreamsDriver as RedisStreamsDriver
from ._partitions import PartitionsDiffer as PartitionsDiffer
from ._troubles import Lost as Lost, Trimmed as Trimmed
