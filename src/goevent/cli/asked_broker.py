"""The asked broker: the driver of a target in a bus of its own, which takes no event from anybody.

`asked` opens a new bus on the driver of the target. It has no listeners, so it joins no group,
subscribes to nothing and runs no code of the user. The commands that ask or change something at the
broker work inside it, through the driver. Reports of the driver, such as a lost connection, become
lines on stderr.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import trio

from .. import Config, EventError, GoEvent, UnsupportedError
from ..drivers import DeadLetters
from .failures import WrongUse, one_line
from .output import write_note

if TYPE_CHECKING:
    from .. import Driver, Middleware
    from .targets import Target

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any] | click.Command")


@asynccontextmanager
async def asked(
    target: Target,
    *,
    driver: Driver | None = None,
    middleware: tuple[Middleware, ...] = (),
    on_error: Callable[[EventError], None] | None = None,
) -> AsyncGenerator[GoEvent]:
    """Open a bus without listeners on the driver of a target.

    Args:
        target: The target; its own bus stays closed.
        driver: A driver to use in place of its own.
        middleware: The middleware of the new bus.
        on_error: Gets the reports of the driver in place of stderr.

    Raises:
        DriverError: The broker cannot be reached, or refuses the login.
        UnsupportedError: The target has no broker.
    """
    config = target.bus.config
    used = target.bus.driver if driver is None else driver
    if used.capabilities.alone:
        raise UnsupportedError(f"{target.name} has no broker: its driver serves one process only")
    bus = GoEvent(
        Config(driver=used, registry=config.registry, codec=config.codec, middleware=middleware)
    )
    bus.on_error(on_error or report)
    async with bus:
        yield bus


def listened_names(target: Target) -> list[str]:
    """Return the names and patterns of the listeners of a target, in order."""
    listeners = target.bus.registered_listeners()
    return [*dict.fromkeys(name for each in listeners for name in each.event_names)]


def report(error: EventError) -> None:
    """Show a report of the driver."""
    write_note(f"goevent: {one_line(error.reason)}")


def run_asking(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function of a command by Trio.

    Client libraries log failures that reach the command as errors anyway, so their log is shown
    only with `--verbose`.
    """
    settings = cast("dict[str, bool]", click.get_current_context().obj or {})
    if settings.get("verbose"):
        logging.basicConfig(level=logging.DEBUG)
    else:
        logging.basicConfig(handlers=[logging.NullHandler()])
    return trio.run(function, *args)


def group_option(function: F) -> F:
    """Give a command the option `--group`."""
    return click.option(
        "--group", metavar="G", help="The consumer group; by default that of the URL."
    )(function)


def group_of(target: Target, group: str | None) -> str:
    """Return the group that a command is about.

    Raises:
        WrongUse: Neither the command nor the target names one.
    """
    found = group or target.group
    if found is None:
        raise WrongUse("give a group: --group, or ?group= in the URL")
    return found


def require_dead_letters(driver: Driver) -> None:
    """Refuse a driver that keeps no dead letters.

    Raises:
        UnsupportedError: It keeps none.
    """
    # The property of an object may raise for want of a group.
    if not hasattr(type(driver), "dead_letters"):
        raise UnsupportedError(f"{type(driver).__qualname__} keeps no dead letters")


def dead_letters_of(driver: Driver) -> DeadLetters:
    """Return the dead letters of a driver.

    Raises:
        UnsupportedError: It keeps none, or belongs to no group.
    """
    require_dead_letters(driver)
    return cast("DeadLetters", getattr(driver, "dead_letters"))  # noqa: B009 - not in the contract
