"""Metrics for Prometheus: the collector, the text, scrapes from threads, the histogram."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.request import urlopen

import pytest
import trio
from prometheus_client import CollectorRegistry, Counter, generate_latest, start_http_server
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Backlog,
    Capabilities,
    Config,
    DriverSnapshot,
    Event,
    EventRegistry,
    GoEvent,
    Inbox,
    Message,
    Middleware,
    Receipt,
)
from goevent.telemetry import prometheus
from goevent.telemetry.metric_families import FAMILIES, unique
from goevent.telemetry.prometheus import RunDurations, SnapshotCollector, metrics_page

REGISTRY = EventRegistry()
HOSTILE = 'a"b\\c\nd{e="f"} 1 \ud800 é'


class Paid(Event, name="metrics.paid", registry=REGISTRY):
    n: int = 0


@dataclass
class Broker:
    """A durable driver with the state that a test gives it."""

    state: DriverSnapshot
    schemes = ()
    capabilities = Capabilities(fan_out=False, durable=True)

    @classmethod
    def from_url(cls, url: str) -> Broker:
        raise ValueError(url)

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def subscribe(self, names: object) -> None: ...
    async def unsubscribe(self, names: object) -> None: ...
    async def publish(self, message: Message) -> Receipt | None: ...

    def snapshot(self) -> DriverSnapshot:
        return self.state


def make(driver: object = "memory", middleware: tuple[Middleware, ...] = ()) -> GoEvent:
    return GoEvent(Config(driver=driver, registry=REGISTRY, middleware=middleware))  # type: ignore[arg-type]


def samples(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the samples of a page by name and label values, in the order of the label names."""
    return {
        (sample.name, tuple(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def registered(collector: SnapshotCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


async def ignore(event: object) -> None: ...


async def fail(event: object) -> None:
    raise ValueError("no")


async def used(bus: GoEvent) -> None:
    bus.subscribe(ignore, Paid, name="bill")
    bus.subscribe(fail, Paid, name="fail")
    bus.subscribe(lambda _: None, Paid, name="inline")
    for _ in range(3):
        bus.dispatch_nowait(Paid())
    await bus.wait()
    bus.clear_errors()


async def test_a_scrape_has_the_counts_of_the_snapshot(autojump_clock: MockClock) -> None:
    bus = make()
    collector = SnapshotCollector(bus, name="orders")
    async with bus:
        await used(bus)
        found = samples(collector.text())
    assert found["goevent_deliveries_total", ("orders", "bill", "completed")] == 3
    assert found["goevent_deliveries_total", ("orders", "fail", "failed")] == 3
    assert found["goevent_deliveries_total", ("orders", "fail", "completed")] == 0
    assert found["goevent_errors_total", ("orders",)] == 3
    assert found["goevent_events_dispatched_total", ("orders", "metrics.paid")] == 3
    assert found["goevent_mailbox_depth", ("orders", "bill")] == 0
    assert ("goevent_mailbox_depth", ("orders", "inline")) not in found
    assert found["goevent_deliveries_in_flight", ("orders", "inline")] == 0
    assert found["goevent_bus_responding", ("orders",)] == 1
    assert found["goevent_bus_state", ("orders", "open")] == 1
    assert found["goevent_bus_state", ("orders", "draining")] == 0
    assert not [name for name, _ in found if "driver" in name or "group" in name]


async def test_the_backlog_has_the_group_and_the_event_name(autojump_clock: MockClock) -> None:
    backlogs = (
        Backlog(event_name="a", lag=7, pending=2, oldest_pending=1.5, oldest_waiting=9.25),
        Backlog(event_name="b", pending=1),
    )
    driver = Broker(DriverSnapshot(connected=False, backlogs=backlogs, group="billing"))
    bus = make(driver)
    async with bus:
        found = samples(SnapshotCollector(bus).text())
    assert found["goevent_driver_connected", ("main",)] == 0
    # The labels in the order of their names: bus, event, group.
    assert found["goevent_group_lag", ("main", "a", "billing")] == 7
    assert found["goevent_group_pending", ("main", "a", "billing")] == 2
    assert found["goevent_group_oldest_pending_age_seconds", ("main", "a", "billing")] == 1.5
    assert found["goevent_group_oldest_waiting_age_seconds", ("main", "a", "billing")] == 9.25
    assert found["goevent_group_pending", ("main", "b", "billing")] == 1
    assert ("goevent_group_lag", ("main", "b", "billing")) not in found
    assert ("goevent_group_oldest_waiting_age_seconds", ("main", "b", "billing")) not in found


async def test_the_own_text_says_the_same_as_that_of_prometheus_client(
    autojump_clock: MockClock,
) -> None:
    backlogs = (Backlog(event_name="a", lag=7, oldest_pending=0.1),)
    one = make(Broker(DriverSnapshot(connected=True, backlogs=backlogs, group="g")))
    two = make()
    collector = SnapshotCollector(one, name="one")
    collector.add(two, name='two "\\\n')
    async with one, two:
        await used(two)
        two.subscribe(ignore, Paid, name=HOSTILE)
        for number in range(200):
            two.subscribe(ignore, f"many.n{number}")
        text = collector.text()
        theirs = generate_latest(registered(collector))
        assert samples(text) == samples(theirs)
        assert len(samples(text)) > 1000
        kinds = {each.name: each.type for each in text_string_to_metric_families(text.decode())}
        assert kinds["goevent_deliveries"] == "counter"
        assert kinds["goevent_mailbox_depth"] == "gauge"
        # The newer format has stricter rules, for the names of counters for example.
        write: Callable[[CollectorRegistry], bytes] = vars(openmetrics)["generate_latest"]
        newer = write(registered(collector))
        assert newer.endswith(b"# EOF\n")


async def test_each_family_has_one_block_for_all_buses(autojump_clock: MockClock) -> None:
    one, two = make(), make()
    collector = SnapshotCollector(one, name="one")
    collector.add(two, name="two")
    text = collector.text().decode()
    for family in FAMILIES:
        assert text.count(f"# TYPE {family.name} ") == 1
    with pytest.raises(ValueError, match="a bus with the name 'two'"):
        collector.add(make(), name="two")
    collector.remove("one")
    assert {labels[0] for _, labels in samples(collector.text())} == {"two"}
    with pytest.raises(KeyError):
        collector.remove("one")


def test_a_registry_refuses_a_second_collector() -> None:
    registry = registered(SnapshotCollector(make()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(SnapshotCollector(make(), name="other"))


async def test_hostile_listener_names_stay_one_label(autojump_clock: MockClock) -> None:
    bus = make()
    bus.subscribe(ignore, Paid, name=HOSTILE)
    readable = HOSTILE.replace("\ud800", "?")
    async with bus:
        for text in (
            SnapshotCollector(bus).text(),
            await metrics_page(bus, registry=None),
            generate_latest(registered(SnapshotCollector(bus))),
        ):
            assert samples(text)["goevent_mailbox_depth", ("main", readable)] == 0
            assert "\n d{e" not in text.decode()


def test_listener_names_that_are_there_twice_get_a_number() -> None:
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]
    assert unique(["a", "a #2", "a"]) == ["a", "a #2", "a #3"]
    assert unique(["\ud800", "\ud801"]) == ["?", "? #2"]
    assert unique([]) == []


def test_the_names_follow_the_conventions() -> None:
    for family in FAMILIES:
        assert family.name.startswith("goevent_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert ("age" in family.name.split("_")) == family.name.endswith("_seconds")
        assert family.help.endswith(".")
        assert "\n" not in family.help
        assert "\\" not in family.help
        assert len(family.labels) <= 2


# -- threads


async def test_a_server_in_another_thread_gets_every_state_of_the_bus() -> None:
    bus = make()
    registry = registered(SnapshotCollector(bus))
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def get() -> dict[tuple[str, tuple[str, ...]], float]:
        with urlopen(url, timeout=HANG_SECONDS) as response:
            return samples(response.read())

    try:
        assert (await trio.to_thread.run_sync(get))["goevent_bus_state", ("main", "new")] == 1
        async with bus:
            await used(bus)
            found = await trio.to_thread.run_sync(get)
            assert found["goevent_deliveries_total", ("main", "bill", "completed")] == 3
        closed = await trio.to_thread.run_sync(get)
        assert closed["goevent_bus_state", ("main", "closed")] == 1
        assert closed["goevent_deliveries_total", ("main", "bill", "completed")] == 3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_blocked_event_loop_does_not_hold_up_the_other_buses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked, fine = make(), make()
    collector = SnapshotCollector(blocked, name="blocked", timeout=0.01)
    collector.add(fine, name="fine")
    result: list[bytes] = []
    async with blocked:
        thread = threading.Thread(target=lambda: result.append(collector.text()))
        thread.start()
        thread.join(HANG_SECONDS)  # blocks the event loop
    found = samples(result[0])
    assert found["goevent_bus_responding", ("blocked",)] == 0
    assert found["goevent_bus_responding", ("fine",)] == 1
    assert [labels for _, labels in found if labels[0] == "blocked"] == [("blocked",)]
    assert "has not answered for 0.01 s" in caplog.text


async def test_a_driver_that_fails_does_not_fail_the_scrape(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Broker):
        def snapshot(self) -> DriverSnapshot:
            raise ZeroDivisionError

    async with make(Broken(DriverSnapshot(connected=True))) as bus:
        text = generate_latest(registered(SnapshotCollector(bus)))
    assert samples(text) == {("goevent_bus_responding", ("main",)): 0}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# -- the page in the event loop


async def test_the_page_has_the_bus_and_the_rest_of_the_registry(
    autojump_clock: MockClock,
) -> None:
    registry = CollectorRegistry()
    requests = Counter("requests", "Requests of the application.", registry=registry)
    requests.inc(5)
    bus = make()
    registry.register(SnapshotCollector(bus, name="elsewhere"))
    async with bus:
        await used(bus)
        page = await metrics_page(bus, name="orders", registry=registry)
    found = samples(page)
    assert found["requests_total", ()] == 5
    assert found["goevent_deliveries_total", ("orders", "bill", "completed")] == 3
    assert page.count(b"# TYPE goevent_deliveries_total ") == 1
    assert b"elsewhere" not in page


async def test_the_page_does_not_wait_for_the_event_loop_of_another_bus() -> None:
    registry = CollectorRegistry()
    bus, blocked = make(), make()
    collector = SnapshotCollector(blocked, name="blocked", timeout=HANG_SECONDS)
    registry.register(collector)
    is_open, is_over = threading.Event(), threading.Event()

    async def block() -> None:
        async with blocked:
            is_open.set()
            is_over.wait(HANG_SECONDS)  # blocks the event loop

    thread = threading.Thread(target=trio.run, args=(block,))
    thread.start()
    is_open.wait(HANG_SECONDS)
    try:
        async with bus:
            page = await metrics_page(bus, registry=registry)
        assert thread.is_alive()
    finally:
        is_over.set()
        thread.join()
    assert b"blocked" not in page


async def test_the_page_lets_other_tasks_run_while_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prometheus, "SLICE_SECONDS", 0.0)  # a yield after every piece
    bus = make()
    for number in range(1000):
        bus.subscribe(ignore, f"many.n{number}")
    steps = 0

    async def step() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    async with bus, trio.open_nursery() as nursery:
        nursery.start_soon(step)
        await metrics_page(bus, registry=None)
        nursery.cancel_scope.cancel()
    rows = 9_000
    assert steps >= rows / prometheus.ROWS_PER_PIECE / 2


async def test_the_page_can_be_cancelled() -> None:
    async with make() as bus:
        with trio.CancelScope() as scope:
            scope.cancel()
            await metrics_page(bus)
        assert scope.cancelled_caught


# -- durations


async def test_run_durations_measure_every_attempt(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()
    durations = RunDurations(bus="orders", registry=registry)
    bus = make(middleware=(durations,))
    other = make(middleware=(durations.for_bus("billing"),))
    async with bus, other:
        await used(bus)
        await used(other)
        page = samples(await metrics_page(bus, registry=registry))
    for listener in ("bill", "fail", "inline"):
        assert page["goevent_run_duration_seconds_count", ("orders", listener)] == 3
        assert page["goevent_run_duration_seconds_count", ("billing", listener)] == 3
        assert page["goevent_run_duration_seconds_sum", ("orders", listener)] > 0
    assert page["goevent_run_duration_seconds_bucket", ("orders", "+Inf", "bill")] == 3


async def test_run_durations_have_a_bounded_number_of_listeners(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "MAX_TIMED_LISTENERS", 2)
    registry = CollectorRegistry()
    bus = make(middleware=(RunDurations(registry=registry),))
    async with bus:
        for number in range(5):
            registration = bus.subscribe(ignore, Paid, name=f"request {number}")
            await (await bus.dispatch(Paid())).wait()
            registration.unregister()
        page = samples(await metrics_page(bus, registry=registry))
    assert page["goevent_run_duration_seconds_count", ("main", "(others)")] == 3
    assert page["goevent_run_duration_seconds_count", ("main", "request 1")] == 1


def test_a_second_histogram_in_a_registry_is_refused() -> None:
    registry = CollectorRegistry()
    RunDurations(registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        RunDurations(registry=registry)


async def test_a_page_of_waiting_events_shows_depth_and_age(autojump_clock: MockClock) -> None:
    bus, release = make(), trio.Event()

    async def wait(event: Paid) -> None:
        await release.wait()

    bus.subscribe(wait, Paid, name="wait")
    async with bus:
        for _ in range(3):
            bus.dispatch_nowait(Paid())
        await wait_all_tasks_blocked()
        await trio.sleep(5.0)
        found = samples(await metrics_page(bus))
        release.set()
    assert found["goevent_mailbox_depth", ("main", "wait")] == 2
    assert found["goevent_deliveries_in_flight", ("main", "wait")] == 1
    assert found["goevent_mailbox_oldest_age_seconds", ("main", "wait")] == pytest.approx(5.0)


def test_a_collector_of_no_bus_has_empty_families() -> None:
    def names(lines: list[str]) -> Iterator[str]:
        return (line.split()[2] for line in lines if line.startswith("# TYPE"))

    text = SnapshotCollector().text().decode().splitlines()
    assert [*names(text)] == [family.name for family in FAMILIES]
