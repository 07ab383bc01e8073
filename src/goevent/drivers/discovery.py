"""Discovery: finds the installed driver that a URL or a name stands for.

A package offers a driver by an entry point in the group `goevent.drivers`, named for the URL
scheme. `GoEvent` calls `find_driver` with `Config.driver`.

`importlib.metadata` is imported by the first look-up only, because it would take a quarter of the
time of `import goevent`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from .._errors import DriverError, UnknownDriverError
from .._suggestions import did_you_mean, missing_members
from .contract import Driver
from .memory import MemoryDriver

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "goevent.drivers"
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def check_driver(driver: object) -> None:
    """Refuse an object that stands for no driver.

    Raises:
        TypeError: It is neither a text nor a driver object.
    """
    if isinstance(driver, str) or (isinstance(driver, Driver) and not isinstance(driver, type)):
        return
    kind = type(driver).__qualname__
    if isinstance(driver, type):
        kind = f"class: write {driver.__name__}(...)"
    elif type(driver).__module__ != "builtins" and not callable(driver):
        kind = f"{kind}, which has no {missing_members(driver, Driver)}"
    raise TypeError(f"a driver is a URL, a name or a driver object, not a {kind}")


def find_driver(driver: str | Driver) -> Driver:
    """Return the driver that a `Config.driver` stands for.

    Raises:
        UnknownDriverError: No installed driver has that name or URL scheme.
        DriverError: The driver is installed, but a package that it needs is not.
        ValueError: The URL makes no sense to the driver.
    """
    check_driver(driver)
    if not isinstance(driver, str):
        return driver
    scheme = driver.partition("://")[0].lower()
    if scheme == "memory":
        return MemoryDriver.from_url(driver)
    from importlib.metadata import entry_points

    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if scheme not in installed:
        known = sorted({"memory", *installed})
        # A text that is not a scheme may contain a password, so it is not shown.
        shown, hint = repr(scheme), did_you_mean(scheme, known)
        if not SCHEME.fullmatch(scheme):
            shown = "a text that is no URL and no name"
            start = scheme.partition(":")[0]
            hint = f"; a URL begins with its scheme: {start if start in known else 'redis'}://"
        raise UnknownDriverError(
            f"no driver for {shown} is installed (there is: {', '.join(known)}); a driver comes in "
            f'a package with an entry point in the group "{ENTRY_POINT_GROUP}"'
            f"{hint}"
        )
    return load(installed[scheme]).from_url(driver)


def load(entry: EntryPoint) -> type[Driver]:
    """Return the class behind an entry point.

    Raises:
        DriverError: It cannot be imported; the text names the package to install.
    """
    try:
        return cast("type[Driver]", entry.load())
    except ImportError as error:
        package = entry.dist.name if entry.dist is not None else entry.module
        extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
        hint = f'pip install "{package}{extras}"'
        # Some drivers give the hint themselves, for programs that import them.
        cause = str(error).removesuffix(f": {hint}")
        raise DriverError(
            f"the driver for {entry.name!r} needs a package that is not installed ({cause}): {hint}"
        ) from error
