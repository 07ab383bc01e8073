"""`goevent describe`: the listeners, the event types and the driver of a bus, without a broker.

The settings of a driver are the fields that its config shows in its own `repr`, so no password is
among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast, get_origin

import click
import msgspec

from .. import EventRegistry, ListenerOptions, RegisteredListener, compile_pattern
from .._foreign import describe_value
from .failures import describe, one_line
from .output import json_option, write_json, write_line, write_table
from .targets import Target, TargetCommand, load_target, target_argument

if TYPE_CHECKING:
    from .. import Driver

RUNS = {
    "inline": "inline",
    "inline_async": "inline, awaited",
    "async_mailbox": "mailbox",
    "sync_mailbox": "mailbox, def",
    "threaded": "mailbox, thread",
}
SECRETS = ("password", "secret", "token", "url")


@click.command("describe", cls=TargetCommand)
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Show listeners, event types and driver of TARGET, without a broker.

    The options of a listener are the effective ones, those of the whole bus among them. With --json
    each event type has its JSON schema. A URL shows its driver only.

    \b
    Example:
      goevent describe shop.app:bus
    """
    description = description_of(load_target(target))
    if as_json:
        write_json(description)
    else:
        write_description(description)


# -- the description


def description_of(target: Target) -> dict[str, Any]:
    """Return the description of a bus as a value of JSON, without secrets."""
    description: dict[str, Any] = {
        "target": target.name,
        "driver": describe_driver(target.bus.driver, target.group),
    }
    if target.is_url:
        return description
    registry = target.bus.config.registry
    listeners = target.bus.registered_listeners()
    description["listeners"] = [
        {
            "name": each.name,
            "events": [] if each.responds_to else [*each.event_names],
            "responds_to": each.responds_to or None,
            "answer": None if each.answer is None else name_of(each.answer),
            "runs": RUNS[each.kind],
            "options": shown_options(each.options),
        }
        for each in listeners
    ]
    description["event_types"] = [describe_type(name, registry) for name in registry.names()]
    description["routes"] = routes_of(listeners, registry.names())
    description["responders"] = {
        each.responds_to: each.name for each in listeners if each.responds_to
    }
    return description


def describe_driver(driver: Driver, group: str | None) -> dict[str, Any]:
    """Return the class, the promises and the settings of a driver."""
    settings: dict[str, Any] = {}
    for name in ("config", "streams"):
        if is_dataclass(value := getattr(driver, name, None)):
            settings |= shown_settings(value)
    return {
        "class": type(driver).__qualname__,
        "schemes": [*driver.schemes],
        "group": group,
        "capabilities": asdict(driver.capabilities),
        "settings": settings,
    }


def shown_settings(config: Any) -> dict[str, Any]:
    """Return the fields of a config that its `repr` shows."""
    return {
        field.name: shown_value(getattr(config, field.name))
        for field in fields(config)
        if field.repr and not any(word in field.name for word in SECRETS)
    }


def shown_options(options: ListenerOptions) -> dict[str, Any]:
    """Return the options of a listener that are set."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: shown_value(value) for name, value in values.items() if value not in (None, ())}


def shown_value(value: Any) -> Any:
    """Return a setting as a value of JSON; an object of the program becomes its name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, tuple | list):
        return [shown_value(each) for each in cast("tuple[Any, ...]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        return one_line(repr(value))
    return name_of(value if hasattr(value, "__qualname__") else type(value))


def name_of(named: Any) -> str:
    """Return the full name of a function or a class; the text of a type such as `int | None`."""
    if get_origin(named) is not None or not hasattr(named, "__qualname__"):
        return describe_value(named)
    return f"{named.__module__}.{named.__qualname__}"


def describe_type(name: str, registry: EventRegistry) -> dict[str, Any]:
    """Return the class of an event name, its key and its JSON schema."""
    cls = registry.type_of(name)
    if cls is None:
        raise registry.unknown(name)
    return {
        "event": name,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "key": registry.key_of(cls),
        "schema": schema_of(cls),
    }


def schema_of(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of an event class; one with only a description if it has none."""
    try:
        if hasattr(cls, "model_json_schema"):
            return cast("dict[str, Any]", cls.model_json_schema())
        return msgspec.json.schema(cls)
    # The annotations are code of the user, and may raise anything.
    except Exception as error:  # noqa: BLE001 - shown in the description
        return {"description": f"this class has no JSON schema: {one_line(describe(error))}"}


def routes_of(
    listeners: Sequence[RegisteredListener], names: Sequence[str]
) -> dict[str, list[str]]:
    """Return the listeners that get the events of each name; responders get none.

    Args:
        listeners: The listeners.
        names: The names of event types.
    """
    # By name, because a bus may have thousands of each; only patterns are tried on every name.
    exact: dict[str, list[int]] = {}
    patterns: dict[str, list[int]] = {}
    for place, listener in enumerate(listeners):
        for name in () if listener.responds_to else listener.event_names:
            (patterns if "*" in name else exact).setdefault(name, []).append(place)
    matchers = [(compile_pattern(pattern), places) for pattern, places in patterns.items()]
    routes: dict[str, list[str]] = {}
    for name in sorted({*names, *exact}):
        places = {*exact.get(name, ())}
        places.update(*(found for matches, found in matchers if matches(name)))
        routes[name] = [listeners[place].name for place in sorted(places)]
    return routes


# -- for people


def write_description(description: dict[str, Any]) -> None:
    """Write a description to stdout, as lines and tables."""
    driver = description["driver"]
    group = "" if driver["group"] is None else f", group {driver['group']}"
    write_line(f"{description['target']}: {driver['class']}{group}")
    promises = [name for name, value in driver["capabilities"].items() if value is True]
    write_line(f"capabilities: {', '.join(promises) or 'none'}")
    if settings := {name: value for name, value in driver["settings"].items() if value is not None}:
        write_line(f"settings: {pairs(settings)}")
    if "listeners" not in description:
        return
    write_line()
    rows = [
        (each["name"], events_of(each), each["runs"], pairs(each["options"]))
        for each in description["listeners"]
    ]
    write_table("Listeners", ("listener", "events", "runs", "options"), rows)
    write_line()
    types = [
        (each["event"], each["class"], each["key"], fields_of(each["schema"]))
        for each in description["event_types"]
    ]
    write_table("Event types", ("event", "class", "key", "fields"), types)
    write_line()
    routes = [(name, ", ".join(each) or "-") for name, each in description["routes"].items()]
    write_table("Routes", ("event", "listeners"), routes)


def events_of(listener: Mapping[str, Any]) -> str:
    """Return the events of a listener in one line."""
    if not listener["responds_to"]:
        return ", ".join(listener["events"])
    answer = f" with {listener['answer'].rpartition('.')[2]}" if listener["answer"] else ""
    return f"responds to {listener['responds_to']}{answer}"


def pairs(values: Mapping[str, Any]) -> str:
    """Return values as `name=value`, in their order."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def fields_of(schema: dict[str, Any]) -> str:
    """Return the fields of a schema in one line; one that may be missing has a question mark."""
    found: Any = schema
    if (place := schema.get("$ref", "").rpartition("/")[2]) and "$defs" in schema:
        found = schema["$defs"].get(place, {})
    properties: dict[str, Any] = found.get("properties", {})
    required = found.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {type_name(each)}"
        for name, each in properties.items()
    )


def type_name(schema: Any) -> str:
    """Return the type of a field in a word."""
    if not isinstance(schema, dict):
        return "any"
    known = cast("dict[str, Any]", schema)
    if "$ref" in known:
        return str(known["$ref"]).rpartition("/")[2]
    if "anyOf" in known:
        return " | ".join(type_name(each) for each in known["anyOf"])
    return str(known.get("format") or known.get("type") or "any")
