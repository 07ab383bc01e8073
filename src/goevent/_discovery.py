"""How the driver named by a URL or a name is found among those installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast
from urllib.parse import urlsplit

from ._driver import Driver
from ._errors import UnknownDriverError
from ._memory import MemoryDriver


def find_driver(driver: str | Driver) -> Driver:
    """Return the driver that a `Config.driver` stands for.

    Raises:
        UnknownDriverError: no installed driver has that name or URL scheme.
    """
    if not isinstance(driver, str):
        if not isinstance(driver, Driver):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a driver is a URL, a name or a driver object, not {driver!r}")
        return driver
    scheme = urlsplit(driver).scheme if "://" in driver else driver
    if scheme == "memory":
        return MemoryDriver()
    installed = {entry.name: entry for entry in entry_points(group="goevent.drivers")}
    if scheme not in installed:
        known = ", ".join(sorted({"memory", *installed}))
        raise UnknownDriverError(
            f"no driver for {scheme!r} is installed (there is: {known}); a driver comes in a "
            'package with an entry point in the group "goevent.drivers"'
        )
    return cast("Driver", installed[scheme].load()())
