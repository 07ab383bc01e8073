"""`goevent publish`: publishes one event, or each line of stdin as one.

No listener runs here: the event goes to the broker, and other programs get it. For a target in a
module the event is checked by the event types of the program. Events are published in the order of
their lines, and the first line that is refused ends the command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import click
import msgspec
import trio

from .. import (
    DispatchHandle,
    Driver,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    Middleware,
    UnsupportedError,
)
from .asked_broker import asked, run_asking
from .failures import WrongUse
from .keyed_driver import KeyedDriver
from .output import Progress, json_option, progress, write_json, write_line
from .targets import Target, TargetCommand, load_target, url_argument

MAX_EXCERPT_CHARS = 80
_HEADER = re.compile(r"([!-<>-~]+)=([ -~]*)")


class PublishedHeaders:
    """Middleware that gives each event the same headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        """Add the headers before the event goes to the driver."""
        handle.headers.update(self._headers)
        yield


@click.command("publish", cls=TargetCommand)
@url_argument
@click.argument("name", metavar="NAME")
@click.argument("data", metavar="JSON")
@click.option("--key", metavar="KEY", help="Events with the same key stay in order.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--lines", is_flag=True, help="Publish each line of stdin; JSON is then -.")
@click.option("--wait", is_flag=True, help="Wait for the broker's receipt, and print its id.")
@click.option("--ad-hoc", is_flag=True, help="Allow a name that the program has no event type for.")
@json_option
def command(
    target: str,
    name: str,
    data: str,
    key: str | None,
    headers: Sequence[str],
    lines: bool,
    wait: bool,
    ad_hoc: bool,
    as_json: bool,
) -> None:
    """Publish an event NAME with the payload JSON, an object; - reads it from stdin.

    No listener runs here. Without --wait, an event may take 10 seconds until the broker has it;
    with it, as long as the driver tries. An event that is refused is a failure in both cases.

    \b
    Example:
      goevent publish redis://localhost order.paid '{"order_id": 7}' --header tenant=acme
    """
    if lines and data != "-":
        raise WrongUse("--lines reads stdin: give - in place of the JSON")
    found = load_target(target)
    config = found.bus.config
    if not found.is_url and not ad_hoc and not config.registry.is_registered(name):
        raise WrongUse(f"{config.registry.unknown(name)} (--ad-hoc publishes it all the same)")
    driver = keyed(found, name, key)
    added = added_headers(found, headers)
    if lines:
        count = run_asking(publish_lines, found, name, driver, added)
        if as_json:
            write_json({"event": name, "published": count})
        else:
            write_line(f"{count} event(s) of {name} published")
        return
    event = event_of(name, sys.stdin.read() if data == "-" else data, config.registry)
    receipt = run_asking(publish_one, found, event, driver, added, wait)
    if as_json:
        write_json({"event": name, "published": 1, **receipt})
    elif wait:
        write_line(receipt.get("id") or "accepted")


def keyed(target: Target, name: str, key: str | None) -> Driver:
    """Return the driver of a target, with a key if one is asked for.

    Raises:
        WrongUse: The class of the event names its key.
    """
    driver = target.bus.driver
    if key is None:
        return driver
    registry = target.bus.config.registry
    cls = registry.type_of(name)
    if cls is not None and (field := registry.key_of(cls)) is not None:
        raise WrongUse(f"the key of {name} is its field {field!r}: leave --key out")
    return KeyedDriver(driver, key)


def added_headers(target: Target, headers: Sequence[str]) -> tuple[Middleware, ...]:
    """Return the middleware that adds the headers of the arguments.

    Raises:
        UnsupportedError: The driver carries no headers.
        WrongUse: One is not written name=value.
    """
    if not headers:
        return ()
    if not target.bus.driver.capabilities.headers:
        raise UnsupportedError(f"{type(target.bus.driver).__qualname__} carries no headers")
    pairs: dict[str, str] = {}
    for text in headers:
        if (found := _HEADER.fullmatch(text)) is None:
            raise WrongUse("a header is written name=value, in printable ASCII")
        pairs[found[1]] = found[2]
    return (PublishedHeaders(pairs),)


def event_of(name: str, text: str, registry: EventRegistry, line: int | None = None) -> Event:
    """Return the event of a name and a JSON text, checked by its class if the name has one.

    Args:
        line: The number of the line that the text is, for the error.

    Raises:
        WrongUse: The text is no JSON object, or the name is no event name.
        DecodeError: The payload does not fit the class of the event.
    """
    place = "" if line is None else f"line {line}: "
    try:
        payload: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise WrongUse(f"{place}this is no JSON: {reason}: {excerpt(text)}") from error
    if not isinstance(payload, dict):
        raise WrongUse(f"{place}the payload of an event is a JSON object, not {excerpt(text)}")
    fields = cast("dict[str, Any]", payload)
    try:
        if registry.is_registered(name):
            return cast("Event", registry.create(name, fields))
        return Event(name, fields)
    except ValueError as error:
        raise WrongUse(str(error)) from error


def excerpt(text: str) -> str:
    """Return the beginning of a text, for a message."""
    shown = ascii(text.strip())
    return shown if len(shown) <= MAX_EXCERPT_CHARS else f"{shown[:MAX_EXCERPT_CHARS]}..."


async def publish_one(
    target: Target, event: Event, driver: Driver, middleware: tuple[Middleware, ...], wait: bool
) -> dict[str, Any]:
    """Publish an event, and return its receipt.

    Raises:
        ExceptionGroup: The broker or the driver has refused the event.
    """
    async with asked(target, driver=driver, middleware=middleware, on_error=ignore) as bus:
        handle = await bus.dispatch(event)
        if wait:
            await handle.wait()
    # The bus has closed, so the handle is settled.
    handle.raise_errors()
    receipt: dict[str, Any] = {"id": handle.receipt, "receivers": handle.receivers}
    return {name: value for name, value in receipt.items() if value not in ("", None)}


def ignore(error: EventError) -> None:
    """Leave an error to the handle, which raises it."""


async def publish_lines(
    target: Target, name: str, driver: Driver, middleware: tuple[Middleware, ...]
) -> int:
    """Publish each line of stdin, and return the number of events.

    Raises:
        EventError: The broker or the driver has refused an event.
        WrongUse: A line is refused. The events of the lines before it are published.
    """
    failures: list[EventError] = []

    def note(error: EventError) -> None:
        if not failures:
            failures.append(error)

    count = 0
    async with asked(target, driver=driver, middleware=middleware, on_error=note) as bus:
        with progress(f"publishing {name}", None) as bar:
            count = await publish_each(bus, name, bar, failures)
    if failures:
        raise failures[0]
    return count


async def publish_each(
    bus: GoEvent, name: str, bar: Progress, failures: Sequence[EventError]
) -> int:
    """Publish the lines of stdin until one is refused; return the number of events."""
    number = count = 0
    while not failures:
        # Ctrl-C must end the command while stdin is silent, so the thread is left behind.
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            break
        number += 1
        if not line.strip():
            continue
        await bus.dispatch(event_of(name, line, bus.config.registry, number))
        count += 1
        bar.advance()
    return count
