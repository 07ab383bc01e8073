"""The table of the cost of goevent's options: each row compares two workloads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A row of the table of options: one listener with an option, and the same one without.

    Args:
        title: The option.
        with_it: The id of the workload with the option.
        without: The id of the same workload without it.
    """

    title: str
    with_it: str
    without: str


OPTIONS: tuple[Option, ...] = (
    Option("concurrency=8", "option_concurrency-1", "option_none-1"),
    Option("context=True", "option_context-1", "option_none-1"),
    Option("retry=Retry(attempts=3), nothing fails", "option_retry-1", "option_none-1"),
    Option("when, always true", "option_when-1", "option_none-1"),
    Option("timeout=5.0", "option_timeout-1", "option_none-1"),
    Option(
        "timeout=5.0, listener suspends once", "option_timeout_suspends-1", "option_none_suspends-1"
    ),
    Option("thread=True", "option_thread-1", "option_none_def-1"),
    Option("ordering_key, 1 live key", "option_one_key-100000", "option_none_burst-100000"),
    Option("ordering_key, 100,000 live keys", "option_keys-100000", "option_none_burst-100000"),
    Option("priority=1, 10 inline listeners", "option_priority-10", "option_none_inline-10"),
    Option("middleware: around_dispatch", "option_dispatch_middleware-1", "option_none-1"),
    Option("middleware: around_delivery", "option_delivery_middleware-1", "option_none-1"),
    Option("middleware: around_call", "option_call_middleware-1", "option_none-1"),
    Option(
        "10,000 patterns, 1 matches, inline; without: its name",
        "option_patterns-10000",
        "option_exact-1",
    ),
)
OPTIONS_TITLE = "What an option costs: goevent, ns per delivery"
OPTIONS_REMARK = (
    "One async listener with and without the option, events fired in a burst, then drained, where "
    "the row says nothing else. With ordering_key a burst is 100,000 events, all in the mailbox at "
    "once. thread=True: without it the same `def` has a mailbox, but no thread. Patterns: the "
    "event is ad-hoc and its name is in the route cache."
)
