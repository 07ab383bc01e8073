"""Public names: classes and functions name the package that users import them from.

`goevent` and each package of drivers call `publish_names` in their `__init__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, get_type_hints


def publish_names(namespace: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Let the public classes and functions of a package name it as their module.

    Users then see `goevent.GoEvent` and not `goevent._bus.GoEvent`: in reprs, tracebacks, pickles
    and logs.

    Args:
        namespace: The `globals()` of the package.
        names: The names of these classes and functions; all in its `__all__` by default.

    Example:
        ::

            from ._driver import MyDriver as MyDriver

            __all__ = ["MyDriver"]
            publish_names(globals())
    """
    package: str = namespace["__name__"]
    distribution = package.partition(".")[0]
    for name in namespace["__all__"] if names is None else names:
        thing = namespace[name]
        if not isinstance(thing, type | FunctionType):
            continue
        # A name of another distribution keeps its home.
        if thing.__module__.partition(".")[0] != distribution:
            continue
        if isinstance(thing, type):
            _resolve_annotations(thing)
        thing.__module__ = package


def _resolve_annotations(cls: type) -> None:
    """Replace the annotations that are texts: they are read in the module that the class names."""
    own = inspect.get_annotations(cls)
    if any(isinstance(annotation, str) for annotation in own.values()):
        with suppress(NameError):  # a name that is imported for type checkers only
            hints = get_type_hints(cls, include_extras=True)
            cls.__annotations__ = {name: hints[name] for name in own}
