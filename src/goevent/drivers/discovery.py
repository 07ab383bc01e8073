"""How the driver named by a URL or a name is found among those installed."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from .._errors import DriverError, UnknownDriverError
from .contract import Driver
from .memory import MemoryDriver

GROUP = "goevent.drivers"
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def find_driver(driver: str | Driver) -> Driver:
    """Return the driver that a `Config.driver` stands for.

    Raises:
        UnknownDriverError: no installed driver has that name or URL scheme.
        DriverError: it is installed, but something that it needs is not.
        ValueError: the driver cannot make sense of the URL.
    """
    if not isinstance(driver, str):
        if not isinstance(driver, Driver):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(driver).__qualname__
            raise TypeError(f"a driver is a URL, a name or a driver object, not a {kind}")
        return driver
    scheme = driver.partition("://")[0].lower()
    if scheme == "memory":
        return MemoryDriver.from_url(driver)
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in installed:
        known = ", ".join(sorted({"memory", *installed}))
        # What is no scheme may be anything, with a password in it.
        what = repr(scheme) if SCHEME.fullmatch(scheme) else "what is neither a URL nor a name"
        raise UnknownDriverError(
            f"no driver for {what} is installed (there is: {known}); a driver comes in a "
            f'package with an entry point in the group "{GROUP}"'
        )
    return load(installed[scheme]).from_url(driver)


def load(entry: EntryPoint) -> type[Driver]:
    """Return the class behind an entry point.

    Raises:
        DriverError: it cannot be imported; says what to install.
    """
    try:
        return cast("type[Driver]", entry.load())
    except ImportError as error:
        package = entry.dist.name if entry.dist is not None else entry.module
        extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
        raise DriverError(
            f"the driver for {entry.name!r} needs a package that is not installed ({error}): "
            f'pip install "{package}{extras}"'
        ) from error
