"""The live page of a bus: an ASGI application with its state, metrics and probes; the extra `web`.

`Page` is mounted in an application of the user, or served by `bus.serve(http=...)`. This room reads
snapshots, and writes nothing unless the user allows actions. It never knows the kernel.
"""

from .._extras import missing_extra

try:
    from .page import Page as Page
    from .server import AddressError as AddressError, serve_http as serve_http
except ModuleNotFoundError as _error:
    raise missing_extra(_error, "web", "the live page (goevent.web)") from _error

__all__ = ["AddressError", "Page", "serve_http"]
