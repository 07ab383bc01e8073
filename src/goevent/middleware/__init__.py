"""Middleware that is ready to use, in `Config.middleware` or `ListenerOptions.middleware`.

The classes here use only the public names of `goevent`, as a user's middleware does.
"""

from ..drivers.packaging import publish_names as _publish_names
from ._deduplication import Deduplicate as Deduplicate
from ._logging import LogEvents as LogEvents
from ._rate_limit import RateLimit as RateLimit

__all__ = [
    "Deduplicate",
    "LogEvents",
    "RateLimit",
]
_publish_names(globals())
