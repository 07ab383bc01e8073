"""The findings of `check` for pub/sub: missing rights, and limits that lose events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from goevent.drivers import Finding

from .._direct import find_direct_refusals
from .._link.link import Link
from .._link.settings import read_settings
from .._refusals import NeededCommand, find_refusals
from .channels import Channels
from .marks import MARKS_CHANNEL_NAME

MIN_BUFFERED_EVENTS = 2
"""How many of the largest events the server should buffer for a slow bus."""

EXAMPLE_NAME = "goevent.check"
"""The event name that is looked at if the program has none."""


async def find_faults(link: Link, names: Sequence[str], *, max_size: int) -> Sequence[Finding]:
    """Return the findings, errors first.

    Args:
        names: Names and patterns.
        max_size: The largest event that the server takes, in bytes.

    Raises:
        RedisLinkError: There is no connection.
    """
    config = link.config
    channels = Channels(config.channel_prefix)
    wanted = [*dict.fromkeys(names or [EXAMPLE_NAME])]
    found = await find_refusals(link, [*_needed(channels, wanted)])
    found += await find_direct_refusals(link, wanted[0])
    settings = await read_settings(link, ["client-output-buffer-limit"], ["memory"])
    limit = _pubsub_limit(settings.text("client-output-buffer-limit"))
    if limit is not None and limit < MIN_BUFFERED_EVENTS * config.max_event_size:
        found.append(
            _warning(
                f"the server disconnects a bus that is {limit:,} bytes behind, and its events are "
                f"lost: raise client-output-buffer-limit pubsub, since max_event_size is "
                f"{config.max_event_size:,}"
            )
        )
    if max_size < config.max_event_size:
        found.append(
            _warning(
                f"the server takes events up to {max_size:,} bytes, and max_event_size is "
                f"{config.max_event_size:,}: raise proto-max-bulk-len and "
                "client-query-buffer-limit"
            )
        )
    return sorted(found, key=lambda each: each.severity)


def _needed(channels: Channels, names: Sequence[str]) -> Iterator[NeededCommand]:
    marks = channels.channel(MARKS_CHANNEL_NAME)
    first = names[0]
    yield NeededCommand("listen to", first, ("SUBSCRIBE", marks))
    yield NeededCommand("listen to", first, ("UNSUBSCRIBE", marks))
    yield NeededCommand("publish", first, ("PUBLISH", marks, ""))
    for name in names:
        if "*" in name:
            yield NeededCommand("listen to", name, ("PSUBSCRIBE", channels.glob(name)))
            yield NeededCommand("listen to", name, ("PUNSUBSCRIBE", channels.glob(name)))
        else:
            yield NeededCommand("listen to", name, ("SUBSCRIBE", channels.channel(name)))
            yield NeededCommand("publish", name, ("PUBLISH", channels.channel(name), ""))


def _pubsub_limit(text: str) -> int | None:
    """Return the hard limit of the class pubsub in bytes; None if it has none or is unknown."""
    words = text.split()
    for at in range(0, len(words) - 3, 4):
        if words[at] == "pubsub" and words[at + 1].isdigit():
            return int(words[at + 1]) or None
    return None


def _warning(text: str) -> Finding:
    return Finding(severity="warning", text=text)
