"""`DriverConformance`: the class that the author of a driver derives from."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar

from ... import Driver
from . import (
    arrival as arrival,
    batching as batching,
    conversations as conversations,
    direct as direct,
    grouping as grouping,
    lifetime as lifetime,
    limits as limits,
    naming as naming,
    ordering as ordering,
    outages as outages,
    questions as questions,
    settling as settling,
)
from .runner import (
    COMPETING,
    COUNTING,
    DURABLE,
    ENCODED,
    FAN_OUT,
    HEADERS,
    NO_PATTERNS,
    NO_RECONNECT,
    ORDERED,
    OUTAGE,
    PATTERNS,
    RECONNECTS,
    REPLIES,
    TAILS,
    TELLS_LAG,
    run_case,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def trio_marks() -> list[Any]:
    """Return the mark of Trio tests, or nothing without pytest: then the cases can be awaited."""
    try:
        import pytest
    except ImportError:
        return []
    return [pytest.mark.trio]


class DriverConformance:
    """The test cases that every driver has to pass. Derive from it and define `broker`.

    The `capabilities` of the driver decide which cases apply. The others are skipped with a reason.
    The cases are Trio tests, for pytest-trio. Do not use a mock clock for a driver that does real
    I/O.

    Example:
        >>> class TestMyDriver(DriverConformance):
        ...     @asynccontextmanager
        ...     async def broker(self):
        ...         hub = MemoryHub()
        ...         yield lambda group: MemoryDriver(hub)

    Attributes:
        deadline: The time limit of a case in seconds.
        reconnects: False if a driver that has lost its broker ends `run` with a `DriverError`,
            which ends its bus, instead of connecting again.
    """

    deadline: float = 30.0
    reconnects: bool = True
    pytestmark: ClassVar[list[Any]] = trio_marks()

    def broker(self) -> AbstractAsyncContextManager[Callable[[str], Driver]]:
        """Return a context manager that runs a broker. Each case enters it once.

        Its value is a function that makes a driver for a consumer group of the given name. All
        these drivers use the same broker. With `fan_out` there are no groups, and the name is
        ignored.
        """
        raise NotImplementedError(f"{type(self).__name__} must define broker()")

    def outage(self) -> AbstractAsyncContextManager[None] | None:
        """Return a context manager during which the broker cannot be reached.

        On entry it closes all connections; on exit the broker can be reached again at its old
        address. If it returns None, the cases about outages are skipped.
        """
        return None

    # -- arrival

    async def test_driver_declares_itself(self) -> None:
        """The driver has all members of the contract, and its capabilities make sense."""
        await run_case(self, lifetime.it_is_a_driver)

    async def test_everything_arrives_as_it_was_sent(self) -> None:
        """Every published event arrives at each bus, with an equal payload."""
        await run_case(self, arrival.everything_arrives)

    async def test_untyped_events_arrive(self) -> None:
        """An event whose name has no class arrives as a name and a dict."""
        await run_case(self, arrival.untyped_events_arrive)

    async def test_headers_arrive(self) -> None:
        """Each event arrives with its own headers."""
        await run_case(self, arrival.headers_arrive, HEADERS)

    async def test_causes_arrive(self) -> None:
        """An event that a listener dispatches arrives with the ids of its causes."""
        await run_case(self, arrival.causes_arrive, HEADERS)

    async def test_fifty_can_publish_at_once(self) -> None:
        """Fifty tasks on five buses publish, and each event arrives once."""
        await run_case(self, arrival.fifty_publish_at_once)

    async def test_own_listeners_get_each_event_once(self) -> None:
        """The listeners of the dispatching bus get each event once. The echo is dropped."""
        await run_case(self, arrival.own_listeners_get_it_once)

    async def test_buses_answer_each_other(self) -> None:
        """A listener can dispatch, and an event that has arrived is not published again."""
        await run_case(self, arrival.buses_answer_each_other)

    async def test_slow_listener_gets_everything(self) -> None:
        """A slow listener gets all events, or the loss is reported."""
        await run_case(self, arrival.slow_listener_gets_all)

    async def test_receivers_are_counted(self) -> None:
        """A handle has the number of other buses that got the event."""
        await run_case(self, arrival.receivers_are_counted, COUNTING, FAN_OUT)

    async def test_streams_miss_nothing(self) -> None:
        """A stream gets each event from the beginning of its block on, also while it is full."""
        await run_case(self, arrival.streams_miss_nothing)

    # -- order

    async def test_order_is_kept_per_publisher_and_name(self) -> None:
        """Events of one name from one bus arrive in the order of dispatch."""
        await run_case(self, ordering.order_is_kept, ORDERED)

    async def test_listener_runs_one_event_at_a_time(self) -> None:
        """A listener with a mailbox never runs two events at once."""
        await run_case(self, ordering.one_at_a_time)

    # -- batches

    async def test_batches_arrive(self) -> None:
        """Each event of a batch arrives once, in order with the events before and after it."""
        await run_case(self, batching.batches_arrive)

    async def test_batches_of_many_tasks_arrive(self) -> None:
        """Batches of several names and tasks arrive, each in its order."""
        await run_case(self, batching.batches_of_many_tasks_arrive)

    async def test_events_of_a_batch_fail_alone(self) -> None:
        """An event of a batch that cannot be sent is an error on its own handle only."""
        await run_case(self, batching.events_of_a_batch_fail_alone, ENCODED)

    async def test_events_of_a_batch_have_their_receipts(self) -> None:
        """The events of a batch get the receipts that they would get by themselves."""
        await run_case(self, batching.events_of_a_batch_have_their_receipts)

    async def test_headers_of_batches_arrive(self) -> None:
        """Each event of a batch arrives with its own headers."""
        await run_case(self, batching.headers_of_batches_arrive, HEADERS)

    # -- names and patterns

    async def test_names_do_not_mix(self) -> None:
        """With twenty names in use, each listener gets only the events of its own."""
        await run_case(self, naming.names_do_not_mix)

    async def test_unusual_names_are_kept_apart(self) -> None:
        """Names that resemble other names, or patterns of a broker, are kept apart."""
        await run_case(self, naming.unusual_names_are_kept_apart)

    async def test_wildcards_never_reach_the_broker(self) -> None:
        """A text that is not an event name is refused before the driver sees it."""
        await run_case(self, naming.wildcards_never_reach_the_broker)

    async def test_unsubscribed_names_are_not_delivered(self) -> None:
        """The driver delivers only the events of subscribed names."""
        await run_case(self, naming.unsubscribed_names_are_not_delivered)

    async def test_running_bus_can_subscribe(self) -> None:
        """After `ready` has returned, the events of a new name arrive."""
        await run_case(self, naming.a_running_bus_can_subscribe)

    async def test_patterns_match_segments(self) -> None:
        """Patterns match as they do locally. An event that several match arrives once."""
        await run_case(self, naming.patterns_match_segments, PATTERNS)

    async def test_unsubscribed_patterns_are_not_delivered(self) -> None:
        """An unsubscribed pattern delivers no events, and exact names stay subscribed."""
        await run_case(self, naming.unsubscribed_patterns_are_not_delivered, PATTERNS)

    async def test_patterns_are_refused_if_not_supported(self) -> None:
        """With a driver without patterns, registering a pattern raises an error."""
        await run_case(self, naming.patterns_are_refused, NO_PATTERNS)

    # -- limits and failures

    async def test_large_events_arrive(self) -> None:
        """Events up to the limit arrive unchanged."""
        await run_case(self, limits.large_events_arrive)

    async def test_too_large_events_fail_alone(self) -> None:
        """An event above the limit is an error on its handle and affects no other event."""
        await run_case(self, limits.too_large_events_fail_alone, ENCODED)

    async def test_unencodable_events_fail_alone(self) -> None:
        """An unencodable event is an error on its handle and affects no other event."""
        await run_case(self, limits.unencodable_events_fail_alone, ENCODED)

    async def test_unknown_types_fail_alone(self) -> None:
        """An event that a strict registry does not know is one error and affects no other."""
        await run_case(self, limits.unknown_types_fail_alone)

    async def test_failing_listeners_stop_no_other(self) -> None:
        """A failing listener is an error on its own bus, and all other listeners go on."""
        await run_case(self, limits.failing_listeners_stop_no_other)

    # -- the life of a bus

    async def test_ten_buses_come_and_go_at_once(self) -> None:
        """Ten buses open at once, exchange events and close at once, twice."""
        await run_case(self, lifetime.ten_buses_come_and_go_at_once)

    async def test_accepted_events_outlive_their_publisher(self) -> None:
        """An accepted event arrives, even if its bus closes at once or is cancelled."""
        await run_case(self, lifetime.accepted_events_outlive_their_publisher)

    async def test_closing_sends_what_was_dispatched(self) -> None:
        """A closing bus first publishes the events that were dispatched before."""
        await run_case(self, lifetime.closing_sends_what_was_dispatched)

    async def test_bus_can_be_cancelled_at_every_step(self) -> None:
        """A bus that is cancelled at any step leaves no task and no duplicate, and opens again."""
        await run_case(self, lifetime.it_can_be_cancelled_at_every_step)

    async def test_bus_can_be_opened_again(self) -> None:
        """A driver works each time that its bus is opened."""
        await run_case(self, lifetime.a_bus_can_be_opened_again)

    async def test_no_task_is_left(self) -> None:
        """No task is left after a bus has ended, in any way."""
        await run_case(self, lifetime.no_task_is_left)

    async def test_closing_delays_no_other_bus(self) -> None:
        """A bus with a stuck listener can be closed, and the other buses go on."""
        await run_case(self, lifetime.closing_delays_no_other_bus)

    async def test_closed_bus_is_freed(self) -> None:
        """A closed bus and its listeners are freed."""
        await run_case(self, lifetime.a_closed_bus_is_freed)

    # -- settling

    async def test_delivery_is_settled_once_when_all_are_done(self) -> None:
        """A delivery is settled once, with its failures, when its last listener is done."""
        await run_case(self, settling.settled_once_when_all_are_done)

    async def test_delivery_is_settled_once_when_dropped(self) -> None:
        """A delivery that is dropped by a mailbox or by unregistering is settled once."""
        await run_case(self, settling.settled_once_when_dropped)

    async def test_delivery_is_settled_once_when_abandoned(self) -> None:
        """A delivery that is interrupted by the end of the bus is settled once, as abandoned."""
        await run_case(self, settling.settled_once_when_abandoned)

    # -- groups and durability

    async def test_each_group_gets_each_event_once(self) -> None:
        """One bus of each consumer group gets an event, even when another bus leaves the group."""
        await run_case(self, grouping.each_group_gets_it_once, COMPETING)

    async def test_abandoned_events_are_delivered_again(self) -> None:
        """An abandoned event is delivered again, a completed one is not."""
        await run_case(self, grouping.abandoned_events_are_delivered_again, DURABLE)

    async def test_events_wait_for_absent_buses(self) -> None:
        """An event published while all buses of a group are closed arrives when one opens."""
        await run_case(self, grouping.events_wait_for_absent_buses, DURABLE)

    async def test_accepted_events_have_receipts(self) -> None:
        """The receipt of a durable driver has the id that the broker gave to the event."""
        await run_case(self, grouping.accepted_events_have_receipts, DURABLE)

    # -- direct messages

    async def test_direct_messages_arrive_unchanged(self) -> None:
        """Any bytes that are sent to an address arrive at the bus that has opened it."""
        await run_case(self, direct.direct_messages_arrive_unchanged, REPLIES)

    async def test_direct_messages_keep_their_order(self) -> None:
        """The direct messages of one sender to one address arrive in order."""
        await run_case(self, direct.direct_messages_keep_their_order, REPLIES)

    async def test_direct_addresses_do_not_mix(self) -> None:
        """A bus gets the direct messages to its open addresses, and no others."""
        await run_case(self, direct.direct_addresses_do_not_mix, REPLIES)

    async def test_all_buses_of_an_address_get_a_direct_message(self) -> None:
        """Each bus that has opened an address gets its messages, the sender's bus, too."""
        await run_case(self, direct.all_buses_of_an_address_get_a_message, REPLIES)

    async def test_direct_messages_can_be_answered(self) -> None:
        """A direct message can be sent while another one is taken."""
        await run_case(self, direct.direct_messages_can_be_answered, REPLIES)

    async def test_events_and_direct_messages_do_not_meet(self) -> None:
        """No listener gets a direct message, by a pattern or by an equal name, and none counts."""
        await run_case(self, direct.events_and_direct_messages_do_not_meet, REPLIES)

    async def test_full_mailboxes_delay_no_direct_message(self) -> None:
        """A direct message does not wait behind the events of a listener that is stuck."""
        await run_case(self, direct.full_mailboxes_delay_no_direct_message, REPLIES)

    async def test_direct_messages_have_outcomes_when_the_bus_ends(self) -> None:
        """Each direct message has one outcome, also if its bus ends at once, in any way."""
        await run_case(self, direct.direct_messages_have_outcomes_when_the_bus_ends, REPLIES)

    async def test_addresses_end_with_the_bus(self) -> None:
        """A bus that is opened again has no open address."""
        await run_case(self, direct.addresses_end_with_the_bus, REPLIES)

    async def test_opening_an_address_can_be_cancelled(self) -> None:
        """An address whose opening was cancelled can be opened, and gets each message once."""
        await run_case(self, direct.opening_an_address_can_be_cancelled, REPLIES)

    async def test_direct_messages_outlive_an_outage(self) -> None:
        """After an outage the addresses are open again, and each message has one outcome."""
        await run_case(self, direct.direct_messages_outlive_an_outage, REPLIES, OUTAGE, RECONNECTS)

    # -- conversations

    async def test_requests_are_answered(self) -> None:
        """A request gets its typed answer, and each message comes once."""
        await run_case(self, conversations.requests_are_answered, REPLIES)

    async def test_failures_reach_the_requester(self) -> None:
        """The failure of a responder is raised as a `RemoteError`."""
        await run_case(self, conversations.failures_reach_the_requester, REPLIES)

    async def test_requests_without_a_responder_fail(self) -> None:
        """A request that nobody responds to fails by its timeout."""
        await run_case(self, conversations.requests_without_a_responder_fail, REPLIES)

    async def test_timeouts_cancel_the_responder(self) -> None:
        """The responder is cancelled when the time of its request is over."""
        await run_case(self, conversations.timeouts_cancel_the_responder, REPLIES)

    async def test_cancelled_requesters_cancel_the_responder(self) -> None:
        """The responder is cancelled when its requester is."""
        await run_case(self, conversations.cancelled_requesters_cancel_the_responder, REPLIES)

    async def test_requests_end_with_their_bus(self) -> None:
        """The requests of a bus that closes end, and their responders are cancelled."""
        await run_case(self, conversations.requests_end_with_their_bus, REPLIES)

    async def test_closing_buses_finish_their_requests(self) -> None:
        """A bus that closes answers what it has; another one gets the next requests."""
        await run_case(self, conversations.closing_buses_finish_their_requests, REPLIES)

    async def test_draining_buses_get_their_answers(self) -> None:
        """A listener that runs while its bus closes gets the answers to its requests."""
        await run_case(self, conversations.draining_buses_get_their_answers, REPLIES)

    async def test_requests_of_an_ended_bus_end(self) -> None:
        """A request of a bus that ends fails, or goes to another bus if it is durable."""
        await run_case(self, conversations.requests_of_an_ended_bus_end, REPLIES)

    async def test_requests_can_be_cancelled_at_any_time(self) -> None:
        """Of 500 requests a third is cancelled; each is counted, and nothing is left."""
        await run_case(self, conversations.requests_can_be_cancelled_at_any_time, REPLIES)

    async def test_listeners_get_no_requests(self) -> None:
        """No listener of an event, and of a pattern, gets its requests."""
        await run_case(self, conversations.listeners_get_no_requests, REPLIES)

    async def test_all_buses_report(self) -> None:
        """A wait for all buses ends when all have reported, and tells the failures."""
        await run_case(self, conversations.all_buses_report, REPLIES, FAN_OUT)

    async def test_events_without_listeners_need_no_reports(self) -> None:
        """A wait for all buses ends if none listens."""
        await run_case(
            self, conversations.events_without_listeners_need_no_reports, REPLIES, FAN_OUT
        )

    async def test_late_reports_complete_the_outcome(self) -> None:
        """A slow bus makes the outcome partial, and its report completes it."""
        await run_case(self, conversations.late_reports_complete_the_outcome, REPLIES, FAN_OUT)

    async def test_ending_buses_report(self) -> None:
        """A bus that ends has abandoned its events, and the wait ends."""
        await run_case(self, conversations.ending_buses_report, REPLIES, FAN_OUT)

    # -- the questions of operators

    async def test_tail_shows_each_event_once(self) -> None:
        """A tail shows each event from its start on once, and takes none from the listeners."""
        await run_case(self, questions.a_tail_shows_each_event_once, TAILS)

    async def test_tail_shows_the_events_of_a_pattern(self) -> None:
        """A tail of a pattern shows the events that match it, of names that are new, too."""
        await run_case(self, questions.a_tail_shows_the_events_of_a_pattern, TAILS, PATTERNS)

    async def test_tail_leaves_nothing_behind(self) -> None:
        """A tail whose reader is cancelled leaves no task, and has held up no listener."""
        await run_case(self, questions.a_tail_leaves_nothing_behind, TAILS)

    async def test_tail_goes_on_after_an_outage(self) -> None:
        """A tail that has lost its connection shows events again once the broker is back."""
        await run_case(self, questions.a_tail_goes_on_after_an_outage, TAILS, OUTAGE, RECONNECTS)

    async def test_lag_counts_what_waits(self) -> None:
        """The lag of a group counts the events that wait, and is 0 when all are done."""
        await run_case(self, questions.the_lag_counts_what_waits, TELLS_LAG, DURABLE)

    async def test_unknown_group_has_no_lag(self) -> None:
        """A group that the broker does not know has no lag, and asking does not create it."""
        await run_case(self, questions.an_unknown_group_has_no_lag, TELLS_LAG, DURABLE)

    # -- outages

    async def test_publishing_without_a_broker_fails(self) -> None:
        """A publish that cannot reach the broker is one error on its handle."""
        await run_case(self, outages.publishing_without_a_broker_fails, OUTAGE, RECONNECTS)

    async def test_connection_is_made_again(self) -> None:
        """After an outage all new events arrive, and the outage was reported."""
        await run_case(self, outages.it_reconnects, OUTAGE, RECONNECTS)

    async def test_lost_connection_ends_the_bus(self) -> None:
        """A driver that does not reconnect raises a `DriverError`, and its bus ends."""
        await run_case(self, outages.a_lost_connection_ends_the_bus, OUTAGE, NO_RECONNECT)

    async def test_bus_does_not_open_without_a_broker(self) -> None:
        """A bus that is opened without its broker raises a `DriverError`."""
        await run_case(self, outages.a_bus_does_not_open_without_a_broker, OUTAGE)
