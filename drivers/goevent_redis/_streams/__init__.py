"""Durable events over Redis Streams: at least once, for each group of consumers."""

from .config import StreamsConfig as StreamsConfig
from .dead_letters import DeadLetter as DeadLetter, DeadLetters as DeadLetters
from .driver import RedisStreamsDriver as RedisStreamsDriver
from .faults import Lost as Lost, Trimmed as Trimmed
from .partitions.partitions import PartitionsDiffer as PartitionsDiffer
