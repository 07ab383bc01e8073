"""An event bus on Trio with actors, mailboxes and drivers for several brokers.

This package re-exports the public names. A driver author also needs `goevent.drivers`; ready-made
middleware is in `goevent.middleware`, helpers for tests are in `goevent.testing`.

The names are imported with the first use of one of them: `goevent --help` does not wait for Trio.

Example:
    >>> bus = GoEvent()
    >>> @bus.listener("user.created")
    ... def greet(event: Event) -> None:
    ...     print("hello", event.payload()["name"])
    >>> async with bus:
    ...     handle = await bus.dispatch(Event("user.created", {"name": "Ada"}))
    hello Ada
"""

import importlib

TYPE_CHECKING = False  # as `typing` has it, without the time that the import of `typing` takes
if TYPE_CHECKING:
    from ._public import *  # noqa: F403

__version__ = "0.2.0"

if not TYPE_CHECKING:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> object:
        from .drivers.packaging import publish_names

        # `from . import _public` would ask this function for `_public`.
        _public = importlib.import_module(f"{__name__}._public")
        if name != "__all__" and name not in _public.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        globals().update((each, getattr(_public, each)) for each in ["__all__", *_public.__all__])
        publish_names(globals())
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})


# Not a public name.
del TYPE_CHECKING
