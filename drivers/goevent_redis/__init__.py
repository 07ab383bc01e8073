"""Drivers for Redis, native on Trio: pub/sub, and Streams for durable events.

`RedisDriver` and `RedisStreamsDriver` are for `GoEvent`. `Link`, `Pool` and `RedisClient` can be
used without a bus.
"""

from goevent.drivers import (
    publish_names as _publish_names,
    suggest_options as _suggest_options,
)

from ._link.client import RedisClient as RedisClient
from ._link.config import RedisConfig as RedisConfig
from ._link.connectivity import Connected as Connected, Disconnected as Disconnected
from ._link.errors import (
    ConnectionBroken as ConnectionBroken,
    ConnectRefused as ConnectRefused,
    ConnectTimeout as ConnectTimeout,
    LinkClosed as LinkClosed,
    NoPermission as NoPermission,
    NotConnected as NotConnected,
    PoolTimeout as PoolTimeout,
    ProtocolBroken as ProtocolBroken,
    RedisLinkError as RedisLinkError,
    ReplyTimeout as ReplyTimeout,
    ServerRefused as ServerRefused,
    TLSFailure as TLSFailure,
    UnsupportedServer as UnsupportedServer,
    WrongPassword as WrongPassword,
    WrongServer as WrongServer,
)
from ._link.link import Link as Link
from ._link.pool import Pool as Pool
from ._pubsub.driver import RedisDriver as RedisDriver
from ._streams import (
    DeadLetter as DeadLetter,
    DeadLetters as DeadLetters,
    Lost as Lost,
    PartitionsDiffer as PartitionsDiffer,
    RedisStreamsDriver as RedisStreamsDriver,
    StreamsConfig as StreamsConfig,
    Trimmed as Trimmed,
)

__all__ = [
    "ConnectRefused",
    "ConnectTimeout",
    "Connected",
    "ConnectionBroken",
    "DeadLetter",
    "DeadLetters",
    "Disconnected",
    "Link",
    "LinkClosed",
    "Lost",
    "NoPermission",
    "NotConnected",
    "PartitionsDiffer",
    "Pool",
    "PoolTimeout",
    "ProtocolBroken",
    "RedisClient",
    "RedisConfig",
    "RedisDriver",
    "RedisLinkError",
    "RedisStreamsDriver",
    "ReplyTimeout",
    "ServerRefused",
    "StreamsConfig",
    "TLSFailure",
    "Trimmed",
    "UnsupportedServer",
    "WrongPassword",
    "WrongServer",
]
_publish_names(globals())
# Here and not in the link, which knows no goevent.
_suggest_options(RedisConfig)
_suggest_options(RedisDriver, config=RedisConfig)
_suggest_options(RedisStreamsDriver, config=StreamsConfig, keyword="streams")
_suggest_options(Link, config=RedisConfig)
_suggest_options(Pool, config=RedisConfig)
