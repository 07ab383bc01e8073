"""Writes the tables of brokers from the code into their page: `python docs/_tables.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from goevent import Capabilities, Driver, MemoryDriver, MemoryHub, UnsupportedError
from goevent.drivers import DurableConfig
from goevent_faststream import MAPPINGS, BrokerConfig, FastStreamDriver, Mapping
from goevent_faststream._adapter.contract import ChecksBroker, TailsEvents, TellsLag
from goevent_redis import RedisDriver, RedisStreamsDriver, StreamsConfig
from goevent_redis._tls import REDIS_URL_OPTIONS

PAGE = Path(__file__).parent / "brokers" / "choosing-a-broker.md"


class Row(NamedTuple):
    """One driver, as configured by a URL."""

    title: str
    url: str
    capabilities: Capabilities
    answers: frozenset[str]


def rows() -> Iterator[Row]:
    """Return every shipped driver."""

    def row(title: str, url: str, driver: Driver) -> Row:
        return Row(title, url, driver.capabilities, frozenset(answers_of(driver)))

    streams = "redis+streams://host?group=billing"
    yield row("Memory", "MemoryDriver(hub)", MemoryDriver(MemoryHub()))
    yield row("Redis pub/sub", "redis://host", RedisDriver.from_url("redis://host"))
    yield row("Redis Streams", streams, RedisStreamsDriver.from_url(streams))
    with suppress(UnsupportedError):
        parted = f"{streams}&partitions=8"
        yield row("Redis Streams with partitions", parted, RedisStreamsDriver.from_url(parted))
    for mapping in MAPPINGS:
        url = f"{mapping.schemes[0]}://host" + ("?group=billing" if mapping.durable else "")
        yield row(title_of(mapping), url, FastStreamDriver.from_url(url))


QUESTIONS = {"check": ChecksBroker, "lag": TellsLag, "tail": TailsEvents}
# Drivers that have the method of a question, and refuse it.
REFUSED_ANSWERS = {"mqtt": ("lag",)}


def answers_of(driver: Driver) -> Iterator[str]:
    """Yield the questions of operators that a driver answers."""
    for question, protocol in QUESTIONS.items():
        if isinstance(driver, FastStreamDriver):
            refused = REFUSED_ANSWERS.get(driver.identity.system, ())
            inspection = driver._adapter.inspection  # pyright: ignore[reportPrivateUsage]
            is_answered = isinstance(inspection, protocol) and question not in refused
        else:
            is_answered = hasattr(driver, question)
        if is_answered:
            yield question


def title_of(mapping: Mapping) -> str:
    """Return the title of a broker. A broker with two rows in the table has two titles."""
    alike = [each for each in MAPPINGS if each.schemes == mapping.schemes]
    more = "" if len(alike) == 1 else (" with a group" if mapping.durable else " without a group")
    return mapping.title + more


PROMISES: Sequence[tuple[str, Callable[[Capabilities], str]]] = (
    ("delivery", lambda c: _delivery(c)),
    ("survival of restarts", lambda c: _yes(c.durable)),
    ("order", lambda c: "per bus and name" if c.ordered else ""),
    ("name patterns", lambda c: _yes(c.patterns)),
    ("headers", lambda c: _yes(c.headers)),
    ("replay", lambda c: _yes(c.replay)),
    ("count of receivers", lambda c: _yes(c.counts_receivers)),
    ("requests and replies", lambda c: _yes(c.replies)),
    ("largest event, bytes", lambda c: f"{c.max_size:,}" if c.max_size else "the codec's"),
)

WORDS = (
    ("event name", "name"),
    ("default prefix", "prefix"),
    ("group", "group"),
    ("key", "key"),
    ("headers, id and origin", "travels"),
    ("pattern", "patterns"),
    ("acknowledge, retry, release, dead-letter", "settles"),
    ("requests and replies", "direct"),
    ("address", "address"),
)


def _yes(there: bool) -> str:
    return "yes" if there else ""


def _delivery(capabilities: Capabilities) -> str:
    if capabilities.durable:
        return "at least once"
    return "once, while its bus is open" if capabilities.lossless else "at most once"


def tables() -> dict[str, str]:
    """Return each table under its name."""
    found = [*rows()]
    urls = [["", "for instance"], *([row.title, f"`{row.url}`"] for row in found)]
    return {
        "fan-out": _guarantees([row for row in found if row.capabilities.fan_out]),
        "groups": _guarantees([row for row in found if not row.capabilities.fan_out]),
        "urls": _table(urls),
        "questions": _questions(found),
        "options": _options(),
        "brokers": "\n\n".join(_vocabularies()),
    }


def _guarantees(found: Sequence[Row]) -> str:
    """Return a table of drivers that share events in the same way.

    A column that is the same for every driver becomes a sentence, so that the table fits a phone.
    """
    columns = {title: [tell(row.capabilities) for row in found] for title, tell in PROMISES}
    varying = {title: cells for title, cells in columns.items() if len(set(cells)) > 1}
    common = {title: cells[0] for title, cells in columns.items() if len(set(cells)) == 1}
    lines = [
        ["", *varying],
        *([row.title, *cells] for row, *cells in zip(found, *varying.values(), strict=True)),
    ]
    told = [
        title if cell == "yes" else f"no {title}" if cell == "" else f"{title} {cell}"
        for title, cell in common.items()
    ]
    return f"{_table(lines)}\n\nThe same for all of them: {'; '.join(told)}."


def _questions(found: Sequence[Row]) -> str:
    """Return the table of the questions that each driver answers."""
    lines = [["", *(f"`{question}`" for question in QUESTIONS)]]
    lines += [
        [row.title, *(_yes(question in row.answers) for question in QUESTIONS)] for row in found
    ]
    return _table(lines)


class OptionSet(NamedTuple):
    """The options of the URLs of one driver.

    Attributes:
        settings: goevent's options.
        client: The options that only this broker's client knows.
        config: The class whose fields the settings are.
    """

    scheme: str
    settings: Sequence[str]
    client: Sequence[str]
    config: type[DurableConfig]


def option_sets() -> Iterator[OptionSet]:
    """Return the options of every scheme."""
    pub_sub = ["prefix", "prefetch_bytes"]
    client = [name for name in REDIS_URL_OPTIONS if name not in pub_sub]
    streams = ["prefix", *(field.name for field in fields(StreamsConfig))]
    yield OptionSet("redis+streams", streams, client, StreamsConfig)
    yield OptionSet("redis", pub_sub, client, StreamsConfig)
    names = [field.name for field in fields(BrokerConfig)]
    for mapping in MAPPINGS:
        alike = [each for each in MAPPINGS if each.schemes == mapping.schemes]
        more = "" if len(alike) == 1 else (" with a group" if mapping.durable else "")
        settings = [name for name in names if name not in mapping.refused]
        scheme = f"{mapping.schemes[0]}{more}"
        yield OptionSet(scheme, settings, mapping.url_options, BrokerConfig)


def _options() -> str:
    found = [*option_sets()]
    lines = [["option", "default", "", "schemes"]]
    for name in dict.fromkeys(name for each in found for name in each.settings):
        having = [each for each in found if name in each.settings]
        schemes = [f"`{each.scheme}`" for each in having]
        told = "all" if len(having) == len(found) else ", ".join(schemes)
        lines.append([f"`{name}`", _default(name, having), _meaning(name, having), told])
    clients = [["scheme", "further options, for its client"]]
    by_options: dict[tuple[str, ...], list[str]] = {}
    for each in found:
        if each.client:
            by_options.setdefault((*each.client,), []).append(f"`{each.scheme}`")
    for options, schemes in by_options.items():
        told = ", ".join(f"`{name}`" for name in options)
        clients.append([", ".join(schemes), told])
    return f"{_table(lines)}\n\n{_table(clients)}"


def _default(name: str, having: Sequence[OptionSet]) -> str:
    if name == "prefix":
        return "of the broker"
    values = dict.fromkeys(_shown(getattr(each.config, name)) for each in having)
    if name.endswith("_bytes"):
        values = dict.fromkeys(f"{int(value) >> 20} MiB" for value in values)
    return " or ".join(values)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g} s"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _meaning(name: str, having: Sequence[OptionSet]) -> str:
    """Return the first sentence about a field in the docstring of its class."""
    for config in (*(each.config for each in having), BrokerConfig, DurableConfig):
        text = inspect.getdoc(config) or ""
        if found := re.search(rf"^    {name}: (.*(?:\n        .*)*)", text, re.MULTILINE):
            sentence = re.split(r"(?<=[a-z)])[.;] ", " ".join(found[1].split()))[0]
            return sentence.rstrip(".")
    raise LookupError(name)


def _vocabularies() -> Iterator[str]:
    """Yield the words of each broker; brokers with the same words share a table."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for mapping in MAPPINGS:
        words = tuple(_code(getattr(mapping, field)) for _, field in WORDS)
        titles.setdefault(words, []).append(title_of(mapping))
    for words, names in titles.items():
        lines = [[title, word] for (title, _), word in zip(WORDS, words, strict=True)]
        yield f"### {'; '.join(names)}\n\n{_table([['', ''], *lines])}"


def _code(text: str) -> str:
    """Put words with placeholders, and words that Markdown would interpret, into code."""
    if not text:
        return "none"
    return re.sub(r"[^\s,;]*[{*$#>+][^\s,;]*", lambda found: f"`{found[0]}`", text)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def written(page: str) -> str:
    """Return a page with its tables written anew from the code."""
    for name, table in tables().items():
        head, tail = f"<!-- table: {name} -->", "<!-- end -->"
        before, _, rest = page.partition(head)
        _, _, after = rest.partition(tail)
        page = f"{before}{head}\n\n{table}\n\n{tail}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
