"""The suite that the author of a driver derives from."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar

from ... import Driver
from . import (
    arrival as arrival,
    grouping as grouping,
    lifetime as lifetime,
    limits as limits,
    naming as naming,
    ordering as ordering,
    outages as outages,
    settling as settling,
)
from .case import (
    COMPETING,
    COUNTING,
    DURABLE,
    ENCODED,
    FAN_OUT,
    GIVES_UP,
    HEADERS,
    NO_PATTERNS,
    ORDERED,
    OUTAGE,
    PATTERNS,
    RECONNECTS,
    play,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def marks() -> list[Any]:
    """Return the mark of Trio tests; without pytest, the cases can still be awaited."""
    try:
        import pytest
    except ImportError:
        return []
    return [pytest.mark.trio]


class DriverConformance:
    """The cases that every driver has to pass; derive from it, and define `broker`.

    ```python
    class TestMyDriver(DriverConformance):
        @asynccontextmanager
        async def broker(self):
            async with my_broker() as port:
                yield lambda group: MyDriver(port)
    ```

    Which cases apply is decided by the `capabilities` of the driver; the others are skipped, with
    the reason. The tests are Trio tests, for pytest-trio. A driver that does real I/O needs the
    real clock.

    Attributes:
        deadline: seconds that a case may take.
        reconnects: False if a driver that has lost its broker ends `run` with a `DriverError`, and
            so its bus, instead of trying again.
    """

    deadline: float = 30.0
    reconnects: bool = True
    pytestmark: ClassVar[list[Any]] = marks()

    def broker(self) -> AbstractAsyncContextManager[Callable[[str], Driver]]:
        """Return a context manager inside of which a broker runs; each case enters it once.

        Its value makes a driver for the group of consumers it is given. All of them meet over that
        broker. Under `fan_out` there are no groups, and the name of the group means nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define broker()")

    def outage(self) -> AbstractAsyncContextManager[None] | None:
        """Return a context manager inside of which the broker cannot be reached.

        On entry all connections to it are cut; on exit it can be reached where it was before.
        Without one (None), the cases about that are skipped.
        """
        return None

    # -- what arrives

    async def test_driver_declares_itself(self) -> None:
        """The driver has all parts of the contract, and its capabilities make sense."""
        await play(self, lifetime.it_is_a_driver)

    async def test_everything_arrives_as_it_was_sent(self) -> None:
        """All that is published arrives at each bus, with an equal payload."""
        await play(self, arrival.everything_arrives)

    async def test_headers_arrive(self) -> None:
        """Each event arrives with its own headers."""
        await play(self, arrival.headers_arrive, HEADERS)

    async def test_fifty_can_publish_at_once(self) -> None:
        """Fifty tasks on five buses publish, and each event arrives once."""
        await play(self, arrival.fifty_publish_at_once)

    async def test_own_listeners_get_each_event_once(self) -> None:
        """The listeners of the dispatching bus see each event once; its echo is dropped."""
        await play(self, arrival.own_listeners_get_it_once)

    async def test_buses_answer_each_other(self) -> None:
        """A listener can dispatch, and what has arrived is not sent on."""
        await play(self, arrival.buses_answer_each_other)

    async def test_slow_listener_gets_everything(self) -> None:
        """A slow listener gets all, or somebody is told that it does not."""
        await play(self, arrival.slow_listener_gets_all)

    async def test_receivers_are_counted(self) -> None:
        """A handle tells how many others have got the event."""
        await play(self, arrival.receivers_are_counted, COUNTING, FAN_OUT)

    # -- order

    async def test_order_is_kept_per_publisher_and_name(self) -> None:
        """Events of one name from one bus arrive in the order of dispatch."""
        await play(self, ordering.order_is_kept, ORDERED)

    async def test_listener_runs_one_event_at_a_time(self) -> None:
        """A listener with a mailbox never runs two events at once."""
        await play(self, ordering.one_at_a_time)

    # -- names and patterns

    async def test_names_do_not_mix(self) -> None:
        """Twenty names are in use at once, and each listener gets its own."""
        await play(self, naming.names_do_not_mix)

    async def test_odd_names_are_only_names(self) -> None:
        """Names that look like other names, or like patterns to a broker, are kept apart."""
        await play(self, naming.odd_names_are_only_names)

    async def test_globs_never_reach_the_broker(self) -> None:
        """What is no event name is refused before the driver sees it."""
        await play(self, naming.globs_never_reach_the_broker)

    async def test_unsubscribed_names_stay_silent(self) -> None:
        """The driver hands over only events of names that are subscribed to."""
        await play(self, naming.unsubscribed_names_stay_silent)

    async def test_running_bus_can_subscribe(self) -> None:
        """When `ready` has returned, events of a new name arrive."""
        await play(self, naming.a_running_bus_can_subscribe)

    async def test_patterns_match_segments(self) -> None:
        """Patterns match as they do locally, and where they overlap, an event arrives once."""
        await play(self, naming.patterns_match_segments, PATTERNS)

    async def test_unsubscribed_patterns_stay_silent(self) -> None:
        """A pattern that is dropped brings no events, and takes no name with it."""
        await play(self, naming.a_dropped_pattern_stays_silent, PATTERNS)

    async def test_patterns_are_refused_if_not_supported(self) -> None:
        """A driver without patterns has them refused at registration."""
        await play(self, naming.patterns_are_refused, NO_PATTERNS)

    # -- limits and failures

    async def test_large_events_arrive(self) -> None:
        """Events up to the limit arrive unchanged."""
        await play(self, limits.large_events_arrive)

    async def test_too_large_events_fail_alone(self) -> None:
        """An event above the limit is an error on its handle, and hurts no other."""
        await play(self, limits.too_large_events_fail_alone, ENCODED)

    async def test_events_that_are_no_data_fail_alone(self) -> None:
        """An event that cannot be encoded is an error on its handle, and hurts no other."""
        await play(self, limits.what_is_no_data_fails_alone, ENCODED)

    async def test_unknown_types_fail_alone(self) -> None:
        """An event that the other bus does not know is one error there, and hurts no other."""
        await play(self, limits.unknown_types_fail_alone)

    async def test_failing_listeners_stop_nobody(self) -> None:
        """Listeners that fail are errors where they run, and all others go on."""
        await play(self, limits.failing_listeners_stop_nobody)

    # -- the life of a bus

    async def test_ten_buses_come_and_go_at_once(self) -> None:
        """Ten buses open at once, talk to each other, and close at once; twice."""
        await play(self, lifetime.ten_buses_come_and_go_at_once)

    async def test_accepted_events_outlive_their_publisher(self) -> None:
        """What a publish has accepted arrives, also if the bus closes at once or is cancelled."""
        await play(self, lifetime.accepted_events_outlive_their_publisher)

    async def test_closing_sends_what_was_dispatched(self) -> None:
        """A bus that closes publishes first what was dispatched before."""
        await play(self, lifetime.closing_sends_what_was_dispatched)

    async def test_bus_can_be_cancelled_at_every_step(self) -> None:
        """Wherever it is cancelled, no task is left, nothing arrives twice, and it opens again."""
        await play(self, lifetime.it_can_be_cancelled_at_every_step)

    async def test_bus_can_be_opened_again(self) -> None:
        """A driver serves one opening of its bus after another."""
        await play(self, lifetime.a_bus_can_be_opened_again)

    async def test_no_task_is_left(self) -> None:
        """However a bus ends, its tasks are gone."""
        await play(self, lifetime.no_task_is_left)

    async def test_closing_keeps_nobody_waiting(self) -> None:
        """A bus with a stuck listener can be closed, and the others go on."""
        await play(self, lifetime.closing_keeps_no_one_waiting)

    async def test_closed_bus_is_forgotten(self) -> None:
        """Nobody keeps a bus that has closed."""
        await play(self, lifetime.a_closed_bus_is_forgotten)

    # -- settling

    async def test_delivery_is_settled_once_when_all_are_done(self) -> None:
        """A delivery is settled when its last listener is done, with what has failed."""
        await play(self, settling.settled_once_when_all_are_done)

    async def test_delivery_is_settled_once_when_dropped(self) -> None:
        """A delivery that a mailbox drops, or whose listener goes, is settled once."""
        await play(self, settling.settled_once_when_dropped)

    async def test_delivery_is_settled_once_when_abandoned(self) -> None:
        """A delivery that the end of the bus cuts short is settled once, as abandoned."""
        await play(self, settling.settled_once_when_abandoned)

    # -- groups and durability

    async def test_each_group_gets_each_event_once(self) -> None:
        """Of each group of consumers one bus gets the event, also when another one leaves."""
        await play(self, grouping.each_group_gets_it_once, COMPETING)

    async def test_undelivered_events_come_again(self) -> None:
        """What was abandoned comes again, and what was completed does not."""
        await play(self, grouping.undelivered_events_come_again, DURABLE)

    async def test_events_wait_for_those_who_are_away(self) -> None:
        """What was published while nobody of a group was there arrives when somebody is."""
        await play(self, grouping.events_wait_for_those_who_are_away, DURABLE)

    async def test_accepted_events_have_receipts(self) -> None:
        """A durable driver tells what the broker calls an event."""
        await play(self, grouping.accepted_events_have_receipts, DURABLE)

    # -- outages

    async def test_publishing_without_a_broker_fails(self) -> None:
        """A publish that cannot reach the broker is one clear error on its handle."""
        await play(self, outages.publishing_without_a_broker_fails, OUTAGE, RECONNECTS)

    async def test_connection_is_made_again(self) -> None:
        """After an outage everything arrives again, and somebody was told of it."""
        await play(self, outages.it_reconnects, OUTAGE, RECONNECTS)

    async def test_lost_connection_ends_the_bus(self) -> None:
        """A driver that does not reconnect says so, and its bus ends."""
        await play(self, outages.a_lost_connection_ends_the_bus, OUTAGE, GIVES_UP)

    async def test_bus_does_not_open_without_a_broker(self) -> None:
        """Without a broker a bus does not open, but raises a `DriverError`."""
        await play(self, outages.a_bus_does_not_open_without_a_broker, OUTAGE)
