"""The link: one shared connection to a Redis server, and a pool of further ones, on Trio.

It owns sockets, RESP, logins, reconnecting and the order of requests and replies. The drivers in
`_pubsub` and `_streams` send everything through it, and users get it as `Link`, `Pool` and
`RedisClient`. It must never know goevent: nothing here imports it, and no name here speaks of buses
or listeners.
"""

try:
    # Before the modules of this room, so that a missing extra is named.
    import redis as _redis  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError('goevent_redis needs redis: pip install "goevent[redis]"') from error
