"""The workloads, the tables of the report, and the goals."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

OwnKind: TypeAlias = Literal[
    "sync_await",
    "adhoc_names",
    "option_none",
    "option_concurrency",
    "option_context",
    "option_retry",
    "option_when",
    "option_timeout",
    "option_dispatch_middleware",
    "option_delivery_middleware",
    "option_call_middleware",
    "option_none_suspends",
    "option_timeout_suspends",
    "option_none_def",
    "option_thread",
    "option_none_burst",
    "option_one_key",
    "option_keys",
    "option_none_inline",
    "option_priority",
    "option_exact",
    "option_patterns",
    "snapshot",
    "open_and_close",
    "import",
]
"""The kinds of workloads that only goevent has."""
Kind: TypeAlias = Literal[
    "sync",
    "raises",
    "wait",
    "suspend",
    "drain",
    "names",
    "few_names",
    "queued",
    "queued_shared",
    "idle_names",
    "idle_one_name",
    "come_and_go",
    OwnKind,
]
Pair: TypeAlias = tuple[str, str]
"""A workload's id and a contender's name."""

OWN: frozenset[Kind] = frozenset(get_args(OwnKind))

# The names in the notes. The kinds that only goevent has need no note.
LABELS: dict[Kind, str] = {
    "sync": "sync",
    "raises": "raising listener",
    "wait": "dispatch and wait",
    "suspend": "suspending listeners",
    "drain": "fire and forget",
    "names": "names",
    "few_names": "names (few in use)",
    "queued": "queued event",
    "queued_shared": "the same event queued",
    "idle_names": "idle listener (own name)",
    "idle_one_name": "idle listener (one name)",
    "come_and_go": "listeners come and go",
}


@dataclass(frozen=True)
class Workload:
    """One thing to measure at one size.

    Args:
        kind: The scenario; each contender's module has a function for it.
        size: Listeners per event, registered names or patterns, or the events of a burst.
        unit: The unit of a figure: "ns" per dispatch or "bytes" each.
        max_rounds: The most rounds that are useful, or affordable.
        contenders: The only contenders that run it; None for all that can.
        quick_size: A smaller size for the smoke test.
    """

    kind: Kind
    size: int
    unit: Literal["ns", "bytes"] = "ns"
    max_rounds: int | None = None
    contenders: frozenset[str] | None = None
    quick_size: int | None = None

    @property
    def id(self) -> str:
        """The name under which figures are kept, such as "sync-10"."""
        return f"{self.kind}-{self.size}"

    def size_at(self, *, quick: bool) -> int:
        """Return the size to measure at."""
        return self.quick_size if quick and self.quick_size else self.size


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Args:
        title: The heading.
        columns: (heading, workload id) from left to right.
        per_delivery: Whether figures are divided by the workload's size.
        remark: A note for readers of the figures.
        contenders: The only rows; None for all that have figures.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    per_delivery: bool = False
    remark: str = ""
    contenders: frozenset[str] | None = None


@dataclass(frozen=True)
class Goal:
    """A figure to reach: `top / bottom`, or `top - bottom`, against a bound.

    Args:
        title: The compared workloads.
        top: The pair whose figure is divided.
        bottom: The pair it is divided by; None for an absolute figure.
        bound: The figure to reach.
        at_least: Whether more is better.
        unit: "x", "ns", "µs", "ms" or "bytes".
        per: Divides the result (deliveries per dispatch, or ns in the unit).
        fastest: A faster way to use the same peer, shown beside it.
        difference: Whether `bottom` is subtracted, not divided by.
    """

    title: str
    top: Pair
    bottom: Pair | None
    bound: float
    at_least: bool = True
    unit: str = "x"
    per: int = 1
    fastest: Pair | None = None
    difference: bool = False


NOISE = 1.1
"""The ratio of two medians below which a difference may be noise."""
BURST_OF_KEYS = 100_000
_QUICK_BURST = 5_000
_MANY_ACTORS = frozenset({"goevent", "psygnal", "asyncio-queue", "trio-channel", "trio-tasks"})

WORKLOADS: tuple[Workload, ...] = (
    Workload("sync", 1),
    Workload("sync_await", 1),
    Workload("sync", 10),
    Workload("sync", 100),
    Workload("raises", 1),
    Workload("wait", 1),
    Workload("wait", 10),
    Workload("wait", 100),
    Workload("wait", 1_000, contenders=_MANY_ACTORS),
    Workload("wait", 10_000, contenders=_MANY_ACTORS),
    Workload("suspend", 10),
    Workload("drain", 1),
    Workload("drain", 10),
    Workload("names", 100),
    Workload("names", 100_000, max_rounds=3, quick_size=10_000),
    Workload("few_names", 100_000, max_rounds=3, quick_size=10_000),
    Workload("adhoc_names", 100),
    Workload("adhoc_names", 100_000, max_rounds=3, quick_size=10_000),
    Workload("queued", 1, unit="bytes", max_rounds=2),
    Workload("queued_shared", 1, unit="bytes", max_rounds=2),
    Workload("idle_names", 1, unit="bytes", max_rounds=2),
    Workload("idle_one_name", 1, unit="bytes", max_rounds=2),
    Workload("come_and_go", 100),
    Workload("come_and_go", 1_000, max_rounds=3),
    Workload("come_and_go", 10_000, max_rounds=3, quick_size=2_000),
    Workload("snapshot", 10_000, max_rounds=3),
    Workload("open_and_close", 1),
    Workload("import", 1),
    # Each workload comes after the one that it is compared with.
    Workload("option_none", 1),
    Workload("option_concurrency", 1),
    Workload("option_context", 1),
    Workload("option_retry", 1),
    Workload("option_when", 1),
    Workload("option_timeout", 1),
    Workload("option_dispatch_middleware", 1),
    Workload("option_delivery_middleware", 1),
    Workload("option_call_middleware", 1),
    Workload("option_none_suspends", 1),
    Workload("option_timeout_suspends", 1),
    Workload("option_none_def", 1),
    Workload("option_thread", 1),
    Workload("option_none_burst", BURST_OF_KEYS, quick_size=_QUICK_BURST),
    Workload("option_one_key", BURST_OF_KEYS, quick_size=_QUICK_BURST),
    Workload("option_keys", BURST_OF_KEYS, quick_size=_QUICK_BURST),
    Workload("option_none_inline", 10),
    Workload("option_priority", 10),
    Workload("option_exact", 1),
    Workload("option_patterns", 10_000, quick_size=1_000),
)
BY_ID: dict[str, Workload] = {workload.id: workload for workload in WORKLOADS}


def _listeners(kind: Kind, *sizes: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{size:,} listener{'s' if size > 1 else ''}", f"{kind}-{size}") for size in sizes
    )


SECTIONS: tuple[Section, ...] = (
    Section(
        "Sync listeners, called inline: ns per dispatch",
        (*_listeners("sync", 1, 10, 100), ("1, await dispatch", "sync_await-1")),
    ),
    Section("A sync listener that raises: ns per dispatch", (("1 listener", "raises-1"),)),
    Section(
        "Async listeners, dispatch and wait until all are done: ns per dispatch",
        _listeners("wait", 1, 10, 100),
    ),
    Section(
        "The same with listeners that suspend once each: ns per dispatch",
        _listeners("suspend", 10),
    ),
    Section(
        "Async listeners, fire and forget in bursts, then drain: ns per dispatch",
        _listeners("drain", 1, 10),
    ),
    Section(
        "Dispatch and wait over many actors: ns per delivery",
        tuple((f"{size:,}", f"wait-{size}") for size in (1, 10, 100, 1_000, 10_000)),
        per_delivery=True,
        contenders=_MANY_ACTORS,
    ),
    Section(
        "Registered names, one sync listener each: ns per dispatch",
        (
            ("100 names", "names-100"),
            ("100,000, 100 in use", "few_names-100000"),
            ("100,000, all in use", "names-100000"),
            ("100, ad-hoc", "adhoc_names-100"),
            ("100,000, ad-hoc", "adhoc_names-100000"),
        ),
        remark="Events in shuffled order. With 100,000 names in use each dispatch touches memory "
        "that no cache holds: the bare calls show the cost of that.",
    ),
    Section(
        "Sync listeners of one name come, one event is dispatched, they go in another order: "
        "ns per listener",
        _listeners("come_and_go", 100, 1_000, 10_000),
    ),
    Section(
        "Start-up and inspection: ns",
        (
            ("import GoEvent", "import-1"),
            ("open and close a bus", "open_and_close-1"),
            ("snapshot of 10,000 listeners", "snapshot-10000"),
        ),
        remark="The import is the median of fresh interpreters that have imported Trio and msgspec "
        "before.",
    ),
    Section(
        "Memory: bytes each",
        (
            ("queued event", "queued-1"),
            ("the same event queued", "queued_shared-1"),
            ("idle listener, own name", "idle_names-1"),
            ("idle listener, one name", "idle_one_name-1"),
        ),
        remark="A queued event is counted with its handle where there is one, once with a new "
        "event object for each dispatch and once with one event object for all.",
    ),
)


def _option(kind: str, size: int = 1) -> Pair:
    return f"option_{kind}-{size}", "goevent"


GOALS: tuple[Goal, ...] = (
    Goal("sync, 1 listener: pyee", ("sync-1", "pyee"), ("sync-1", "goevent"), 2.5),
    Goal(
        "sync, 1 listener, await dispatch: pyee",
        ("sync-1", "pyee"),
        ("sync_await-1", "goevent"),
        1.25,
    ),
    Goal("sync, 10 listeners: pyee", ("sync-10", "pyee"), ("sync-10", "goevent"), 3.0),
    Goal("sync, 100 listeners: pyee", ("sync-100", "pyee"), ("sync-100", "goevent"), 3.5),
    Goal(
        "a sync listener that raises: of the time of pyee",
        ("raises-1", "goevent"),
        ("raises-1", "pyee"),
        2.2,
        at_least=False,
    ),
    Goal(
        "sync, 100 listeners: lahja",
        ("sync-100", "lahja"),
        ("sync-100", "goevent"),
        1.45,
        fastest=("sync-100", "lahja-internal"),
    ),
    Goal(
        "async dispatch + wait, 1 listener: psygnal",
        ("wait-1", "psygnal"),
        ("wait-1", "goevent"),
        1.2,
        fastest=("wait-1", "psygnal-future"),
    ),
    Goal(
        "async dispatch + wait, 10 listeners: psygnal",
        ("wait-10", "psygnal"),
        ("wait-10", "goevent"),
        1.4,
        fastest=("wait-10", "psygnal-future"),
    ),
    Goal(
        "10 listeners that suspend once: of the time of bare Trio tasks",
        ("suspend-10", "goevent"),
        ("suspend-10", "trio-tasks"),
        1.0,
        at_least=False,
    ),
    Goal(
        "fire and forget + drain, 1 listener: pykka",
        ("drain-1", "pykka"),
        ("drain-1", "goevent"),
        2.8,
    ),
    Goal(
        "fire and forget + drain, 10 listeners: psygnal",
        ("drain-10", "psygnal"),
        ("drain-10", "goevent"),
        4.5,
    ),
    Goal(
        "dispatch + wait over 10,000 actors, per delivery",
        ("wait-10000", "goevent"),
        None,
        600,
        at_least=False,
        unit="ns",
        per=10_000,
    ),
    Goal(
        "100,000 names, 100 in use: of the cost of 100",
        ("few_names-100000", "goevent"),
        ("names-100", "goevent"),
        2.0,
        at_least=False,
    ),
    Goal(
        "100,000 names, all in use: of the cost of 100",
        ("names-100000", "goevent"),
        ("names-100", "goevent"),
        2.0,
        at_least=False,
    ),
    Goal(
        "10,000 listeners come and go: of the cost of 100, each",
        ("come_and_go-10000", "goevent"),
        ("come_and_go-100", "goevent"),
        2.0,
        at_least=False,
    ),
    Goal(
        "snapshot of 10,000 listeners",
        ("snapshot-10000", "goevent"),
        None,
        5,
        at_least=False,
        unit="ms",
        per=1_000_000,
    ),
    Goal(
        "import GoEvent, above Trio and msgspec",
        ("import-1", "goevent"),
        None,
        30,
        at_least=False,
        unit="ms",
        per=1_000_000,
    ),
    Goal(
        "open and close a bus",
        ("open_and_close-1", "goevent"),
        None,
        300,
        at_least=False,
        unit="µs",
        per=1_000,
    ),
    Goal(
        "queued event with its handle",
        ("queued-1", "goevent"),
        None,
        150,
        at_least=False,
        unit="bytes",
    ),
    Goal(
        "idle async listener",
        ("idle_names-1", "goevent"),
        None,
        1_400,
        at_least=False,
        unit="bytes",
    ),
    Goal(
        "timeout, added to a delivery",
        _option("timeout"),
        _option("none"),
        2_000,
        at_least=False,
        unit="ns",
        difference=True,
    ),
    Goal(
        "timeout, added where the listener suspends",
        _option("timeout_suspends"),
        _option("none_suspends"),
        2_000,
        at_least=False,
        unit="ns",
        difference=True,
    ),
    Goal(
        "100,000 live ordering keys: of the cost of 1",
        _option("keys", BURST_OF_KEYS),
        _option("one_key", BURST_OF_KEYS),
        2.0,
        at_least=False,
    ),
    Goal(
        "retry, nothing fails: of the cost without",
        _option("retry"),
        _option("none"),
        NOISE,
        at_least=False,
    ),
    Goal(
        "priority, 10 inline listeners: of the cost without",
        _option("priority", 10),
        _option("none_inline", 10),
        NOISE,
        at_least=False,
    ),
)
