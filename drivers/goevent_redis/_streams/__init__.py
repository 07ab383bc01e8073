"""Durable events over Redis Streams: at least once, for each consumer group.

The room owns the driver `RedisStreamsDriver`, its publisher, and its consumer with all actors of
it. `consumer` shows how the actors are wired. The room reaches Redis through `_link`; the verdicts
on settled events come from `goevent.drivers`. The room never knows listeners, mailboxes or pub/sub.
"""

from goevent.drivers import DeadLetter as DeadLetter, DeadLetters as DeadLetters

from .config import StreamsConfig as StreamsConfig
from .driver import RedisStreamsDriver as RedisStreamsDriver
from .faults import Lost as Lost, Trimmed as Trimmed
from .partitions.partition import PartitionsDiffer as PartitionsDiffer
