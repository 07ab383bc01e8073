"""The driver's border: whatever a driver raises is a `DriverError`, and no group leaves the bus."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import pytest
import trio
from tests.support.checks import ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Capabilities,
    Config,
    DriverConnectionError,
    DriverError,
    DriverSnapshot,
    EncodeError,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    Inbox,
    Message,
    Receipt,
    Supervision,
    UnsupportedError,
)
from goevent._foreign import leaves
from goevent.drivers import DeadLetter, DeadLetters

REGISTRY = EventRegistry()


class Sent(Event, name="border.sent", registry=REGISTRY):
    n: int = 0


class Mine(Exception):
    """An exception of the application."""


class Halt(BaseException):
    """An exception that is no failure."""


class Rude(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Slotted(Exception):
    __slots__ = ()


def nested(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("outer", [ExceptionGroup("inner", errors)])


FOREIGN: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("a value"),
    "KeyError": lambda: KeyError("a key"),
    "TypeError": lambda: TypeError("a type"),
    "RuntimeError": lambda: RuntimeError("a state"),
    "AssertionError": AssertionError,
    "StopIteration": lambda: LookupError("nothing"),
    "asyncio": lambda: asyncio.InvalidStateError("a future"),
    "closed": lambda: trio.ClosedResourceError("a stream"),
    "rude": Rude,
    "slotted": Slotted,
    "group": lambda: ExceptionGroup("one", [KeyError("a key")]),
    "nested group": lambda: nested(KeyError("a key")),
}
UNREACHABLE: dict[str, Callable[[], Exception]] = {
    "refused": lambda: ConnectionRefusedError(111, "refused"),
    "reset": lambda: ConnectionResetError(104, "reset"),
    "no such host": lambda: socket.gaierror(-2, "unknown host"),
    "no route": lambda: OSError(113, "no route"),
    "TLS": lambda: ssl.SSLCertVerificationError(1, "self-signed"),
    "timeout": lambda: TimeoutError("late"),
    "trio timeout": trio.TooSlowError,
    "broken": lambda: trio.BrokenResourceError("gone"),
    "group": lambda: nested(ConnectionRefusedError(111, "refused"), OSError(101, "no network")),
}


class Failing:
    """A driver whose methods raise a given exception, from a given moment on."""

    schemes: tuple[str, ...] = ()

    def __init__(
        self, fails: str = "", make: Callable[[], BaseException] = Mine, **capabilities: Any
    ) -> None:
        self.capabilities = Capabilities(**capabilities)
        self.fails = fails
        self.make = make
        self.go = trio.Event()
        self.calls: list[str] = []

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    def call(self, method: str) -> None:
        self.calls.append(method)
        if method == self.fails:
            raise self.make()

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.call("run")
        async with trio.open_nursery():  # as most drivers do; it makes groups
            task_status.started()
            await self.go.wait()
            self.call("run later")
            await trio.sleep_forever()

    async def subscribe(self, names: Sequence[str]) -> None:
        self.call("subscribe")

    async def unsubscribe(self, names: Sequence[str]) -> None:
        self.call("unsubscribe")

    async def publish(self, message: Message) -> Receipt | None:
        self.call("publish")
        return None

    def snapshot(self) -> DriverSnapshot:
        self.call("snapshot")
        return DriverSnapshot(connected=True)

    async def drain(self) -> None:
        self.call("drain")

    async def replay(self, name: str, start: Any, end: Any, group: str | None) -> int:
        self.call("replay")
        return 1


class Posting(Failing):
    """A driver with `publish_nowait`, which raises or answers with the exception."""

    def publish_nowait(
        self, message: Message, replied: Callable[[Receipt | Exception], None]
    ) -> None:
        self.call("publish_nowait")
        try:
            self.call("reply")
        except Exception as error:
            replied(error)
        else:
            replied(Receipt())


def make_bus(driver: Failing) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, driver=driver))
    bus.on_error(ignore_error)
    return bus


async def run_inside(bus: GoEvent, body: Callable[[], Awaitable[object]]) -> None:
    async with bus:
        await body()


async def few_steps(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.cancel_shielded_checkpoint()


def first_leaf(error: BaseException) -> BaseException:
    return next(leaves(error))


def assert_mapped(error: BaseException | None, original: BaseException, kind: type) -> None:
    """Check that an error is a bare `DriverError` that tells everything about the original."""
    assert type(error) is kind
    assert error is not None
    original = first_leaf(original)
    assert error.__cause__ is original
    assert type(original).__name__ in str(error)
    assert isinstance(original, Rude) or str(original) in str(error)
    assert error.__context__ in (None, original)


class Maker:
    """Makes exceptions and keeps them."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self.make = make
        self.made: list[Exception] = []

    def __call__(self) -> Exception:
        self.made.append(self.make())
        return self.made[-1]


CASES = [
    *(pytest.param(make, DriverError, id=name) for name, make in FOREIGN.items()),
    *(pytest.param(make, DriverConnectionError, id=name) for name, make in UNREACHABLE.items()),
]
each_exception = pytest.mark.parametrize(("make", "kind"), CASES)


@each_exception
@pytest.mark.parametrize("method", ["run", "subscribe"])
async def test_a_bus_that_cannot_open_raises_one_driver_error(
    autojump_clock: MockClock,
    make: Callable[[], Exception],
    kind: type[DriverError],
    method: str,
) -> None:
    maker = Maker(make)
    bus = make_bus(Failing(method, maker))
    bus.subscribe(print, Sent)
    with pytest.raises(DriverError) as caught:
        async with bus:
            pytest.fail("it opened")
    assert_mapped(caught.value, maker.made[-1], kind)
    assert bus.snapshot().state in ("new", "closed")


@each_exception
@pytest.mark.parametrize("method", ["run later", "drain"])
async def test_a_driver_that_fails_later_ends_the_bus_with_one_driver_error(
    autojump_clock: MockClock,
    make: Callable[[], Exception],
    kind: type[DriverError],
    method: str,
) -> None:
    maker = Maker(make)
    driver = Failing(method, maker)

    async def body() -> None:
        if method == "run later":
            driver.go.set()
            await trio.sleep_forever()

    with pytest.raises(DriverError) as caught:
        await run_inside(make_bus(driver), body)
    assert_mapped(caught.value, maker.made[-1], kind)


@each_exception
async def test_a_failed_subscription_is_raised_by_ready_and_reported_once(
    autojump_clock: MockClock, make: Callable[[], Exception], kind: type[DriverError]
) -> None:
    maker = Maker(make)
    driver = Failing("", maker)
    async with make_bus(driver) as bus:
        driver.fails = "subscribe"
        registration = bus.subscribe(print, Sent)
        for ready in (registration.ready, bus.ready):
            with pytest.raises(DriverError) as caught:
                await ready()
            assert_mapped(caught.value, maker.made[0], kind)
        await trio.sleep(100)
        driver.fails = ""
        await trio.sleep(100)
        await registration.ready()
        assert [type(error.error) for error in bus.errors] == [kind]


@each_exception
async def test_a_failed_unsubscription_is_reported(
    autojump_clock: MockClock, make: Callable[[], Exception], kind: type[DriverError]
) -> None:
    maker = Maker(make)
    driver = Failing("unsubscribe", maker)
    bus = make_bus(driver)
    registration = bus.subscribe(print, Sent)
    async with bus:
        registration.unregister()
        await wait_all_tasks_blocked()
        (error,) = bus.errors
        assert_mapped(error.error, maker.made[0], kind)


@each_exception
@pytest.mark.parametrize("method", ["publish", "publish_nowait", "reply"])
async def test_a_failed_publish_is_on_the_handle(
    autojump_clock: MockClock,
    make: Callable[[], Exception],
    kind: type[DriverError],
    method: str,
) -> None:
    maker = Maker(make)
    driver = (Failing if method == "publish" else Posting)(method, maker)
    async with make_bus(driver) as bus:
        handle = await bus.dispatch(Sent())
        await handle.wait()
        (error,) = handle.errors
        assert_mapped(error.error, maker.made[0], kind)
        driver.fails = ""
        handle = await bus.dispatch(Sent())
        await handle.wait()
        assert handle.errors == ()


@each_exception
async def test_a_failed_snapshot_is_a_driver_error(
    autojump_clock: MockClock, make: Callable[[], Exception], kind: type[DriverError]
) -> None:
    maker = Maker(make)
    async with make_bus(Failing("snapshot", maker)) as bus:
        with pytest.raises(DriverError) as caught:
            bus.snapshot()
        assert_mapped(caught.value, maker.made[0], kind)


@each_exception
async def test_a_failed_replay_is_a_driver_error(
    autojump_clock: MockClock, make: Callable[[], Exception], kind: type[DriverError]
) -> None:
    maker = Maker(make)
    async with make_bus(Failing("replay", maker, replay=True)) as bus:
        with pytest.raises(DriverError) as caught:
            await bus.replay(Sent)
    # A value that the driver does not take is wrong use, too: `except ValueError` works.
    original = first_leaf(maker.made[0])
    assert_mapped(
        caught.value, original, UnsupportedError if isinstance(original, ValueError) else kind
    )


class FailingStore:
    """A store of dead letters that raises."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self.make = make

    async def count(self) -> int:
        raise self.make()

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        raise self.make()

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        raise self.make()

    async def replay(self, ids: Sequence[str]) -> int:
        raise self.make()

    async def discard(self, ids: Sequence[str]) -> int:
        raise self.make()


@each_exception
async def test_failed_requests_for_dead_letters_are_driver_errors(
    make: Callable[[], Exception], kind: type[DriverError]
) -> None:
    letter = DeadLetter(
        id="1",
        event_name="a",
        event_id="1",
        data=b"",
        reason="",
        details="",
        deliveries=1,
        consumer="",
        time=datetime.now(UTC),
    )
    maker = Maker(make)
    letters = DeadLetters(FailingStore(maker))
    for method, args in {
        letters.count: (),
        letters.list: (),
        letters.get: ("1",),
        letters.replay: (letter,),
        letters.replay_all: (),
        letters.discard: (letter, "2"),
    }.items():
        with pytest.raises(DriverError) as caught:
            await method(*args)  # type: ignore[operator]
        assert_mapped(caught.value, maker.made[-1], kind)


# -- what passes unchanged


OURS: list[Callable[[], Exception]] = [
    lambda: DriverError("refused"),
    lambda: DriverConnectionError("gone"),
    lambda: UnsupportedError("no such thing"),
    lambda: EncodeError("border.sent", "too large"),
    lambda: ExceptionGroup("one", [DriverError("refused")]),
]


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("method", ["run", "run later", "publish", "publish_nowait", "reply"])
async def test_an_error_of_goevent_passes_as_itself(
    autojump_clock: MockClock, make: Callable[[], Exception], method: str
) -> None:
    maker = Maker(make)
    driver = (
        Posting(method, maker) if method in ("publish_nowait", "reply") else Failing(method, maker)
    )
    bus = make_bus(driver)
    found: BaseException | None = None
    try:
        async with bus:
            handle = await bus.dispatch(Sent())
            await handle.wait()
            found = handle.errors[0].error if handle.errors else None
            driver.go.set()
            if method == "run later":
                await trio.sleep_forever()
    except (DriverError, EncodeError) as error:
        found = error
    assert found is first_leaf(maker.made[-1])
    assert found is not None
    assert found.__cause__ is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Halt, GeneratorExit])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("method", ["run", "run later", "subscribe", "publish", "drain"])
async def test_an_exception_that_is_no_failure_keeps_its_meaning(
    autojump_clock: MockClock, kind: type[BaseException], grouped: bool, method: str
) -> None:
    def make() -> BaseException:
        return BaseExceptionGroup("one", [kind()]) if grouped else kind()

    driver = Failing(method, make)
    bus = make_bus(driver)
    bus.subscribe(lambda event: None, Sent)

    async def body() -> None:
        driver.go.set()
        await bus.dispatch(Sent())
        if method != "drain":
            await trio.sleep_forever()

    with pytest.raises((kind, BaseExceptionGroup)) as caught:
        await run_inside(bus, body)
    assert type(first_leaf(caught.value)) is kind
    assert method != "run" or grouped or type(caught.value) is kind


async def test_the_errors_beside_an_interrupt_are_one_error(autojump_clock: MockClock) -> None:
    def make() -> BaseException:
        return BaseExceptionGroup("both", [KeyboardInterrupt(), KeyError("a"), OSError("b")])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with make_bus(Failing("run", make)):
            pytest.fail("it opened")
    assert caught.group_contains(KeyboardInterrupt)
    assert caught.group_contains(DriverError, match="KeyError: 'a'")
    assert not caught.group_contains(KeyError)


async def test_a_cancelled_driver_may_raise_a_group_with_its_cancellation(
    autojump_clock: MockClock,
) -> None:
    class Untidy(Failing):
        async def run(
            self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError("while closing")

    with pytest.raises(DriverError, match="KeyError: 'while closing'"):
        async with make_bus(Untidy()):
            pass
    with trio.move_on_after(1) as scope, pytest.raises(DriverError):
        async with make_bus(Untidy()):
            await trio.sleep_forever()
    assert scope.cancel_called


# -- several errors


async def test_the_first_of_several_errors_names_the_others(autojump_clock: MockClock) -> None:
    def make() -> Exception:
        return nested(KeyError("first"), OSError(5, "second"), OSError(5, "second"))

    with pytest.raises(DriverError, match="KeyError: 'first'") as caught:
        async with make_bus(Failing("run", make)):
            pytest.fail("it opened")
    (note,) = caught.value.__notes__
    assert "second" in note


async def test_the_error_of_the_body_leaves_although_the_driver_fails(
    autojump_clock: MockClock,
) -> None:
    for steps in range(8):
        driver = Failing("run later", lambda: KeyError("gone"))
        bus = make_bus(driver)
        own = Mine()

        async def body(driver: Failing = driver, steps: int = steps, own: Mine = own) -> None:
            driver.go.set()
            await few_steps(steps)
            raise own

        with pytest.raises(Mine) as caught:
            await run_inside(bus, body)
        assert caught.value is own
        # The driver may have been cancelled before it could fail.
        assert [type(error.error) for error in bus.errors] in ([DriverError], [])
        assert bus.errors or steps < 4


async def test_the_error_of_the_body_leaves_although_a_listener_escalates(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Sent) -> None:
        raise ValueError("escalates")

    reports = 0
    for steps in range(8):
        caplog.clear()
        bus = GoEvent(Config(registry=REGISTRY))
        bus.subscribe(fail, Sent, async_=True, supervision=Supervision("escalate"))
        own = ExceptionGroup("own", [Mine(), Mine()])

        async def body(
            bus: GoEvent = bus, steps: int = steps, own: ExceptionGroup[Mine] = own
        ) -> None:
            await bus.dispatch(Sent())
            await few_steps(steps)
            raise own

        with pytest.raises(ExceptionGroup) as caught:
            await run_inside(bus, body)
        assert caught.value is own
        assert ("escalates" in caplog.text) == (bus.error_count == 1)
        reports += bus.error_count
    assert reports


async def test_a_body_that_finds_the_bus_closed_leaves_the_reason(
    autojump_clock: MockClock,
) -> None:
    driver = Failing("run later", lambda: KeyError("gone"))

    async def body() -> None:
        driver.go.set()
        await few_steps(8)
        raise BusClosed("found by the body")

    with pytest.raises(DriverError, match="gone"):
        await run_inside(make_bus(driver), body)


# -- texts


async def test_a_password_in_the_text_of_a_client_is_not_shown(autojump_clock: MockClock) -> None:
    def make() -> Exception:
        return OSError("cannot reach amqp://shop:s3cr3t@host:5672/vhost nor amqp://:pa/s3cr3t@b")

    with pytest.raises(DriverConnectionError) as caught:
        async with make_bus(Failing("run", make)):
            pytest.fail("it opened")
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in shown.partition("in test_a_password")[0] + str(caught.value)
    assert "host:5672/vhost" in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_driver_that_does_not_support_a_name_is_not_asked_again(
    autojump_clock: MockClock,
) -> None:
    driver = Failing("", lambda: UnsupportedError("no group"))
    async with make_bus(driver) as bus:
        driver.fails = "subscribe"
        registration = bus.subscribe(print, Sent)
        with pytest.raises(UnsupportedError):
            await registration.ready()
        await trio.sleep(1000)
        assert driver.calls.count("subscribe") == 1
        assert [error.reason for error in bus.errors] == ["UnsupportedError: no group"]
        with pytest.raises(UnsupportedError):
            await registration.ready()


async def test_a_refused_subscription_does_not_stop_publishing(autojump_clock: MockClock) -> None:
    driver = Failing("", lambda: DriverError("not allowed"))
    async with make_bus(driver) as bus:
        driver.fails = "subscribe"
        bus.subscribe(print, "border.other")
        await wait_all_tasks_blocked()
        handle = await bus.dispatch(Sent())
        await handle.wait()
        assert handle.errors == ()
        assert [error.event_name for error in bus.errors] == ["border.other"]


async def test_asking_often_whether_a_refused_name_is_ready_keeps_the_error_small(
    autojump_clock: MockClock,
) -> None:
    driver = Failing("", lambda: DriverError("not allowed"))
    async with make_bus(driver) as bus:
        driver.fails = "subscribe"
        bus.subscribe(print, Sent)
        sizes: list[int] = []
        for _ in range(20):
            with pytest.raises(DriverError) as caught:
                await bus.ready()
            sizes.append(len(traceback.format_exception(caught.value)))
        assert sizes[0] == sizes[-1]


# -- tracebacks of brokers that cannot be reached


URLS = (
    "redis://127.0.0.1:1",
    "redis+streams://127.0.0.1:1?group=g",
    "nats://127.0.0.1:1",
    "nats+js://127.0.0.1:1?group=g",
    "amqp://127.0.0.1:1",
    "mqtt://127.0.0.1:1",
    "kafka://127.0.0.1:1",
    "kafka+confluent://127.0.0.1:1",
)


@pytest.mark.parametrize("url", URLS)
def test_the_traceback_of_a_refused_connection_has_ten_lines(url: str) -> None:
    async def main() -> None:
        async with GoEvent(url):
            pytest.fail("it opened")

    with pytest.raises(DriverConnectionError) as caught:
        trio.run(main)
    # Newer versions of Python underline more of the program's own lines.
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    shown = [line for line in lines if line.strip(" ~^")]
    assert len(shown) <= 10, "\n".join(shown)
    assert shown[-1].startswith("goevent.")


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis+streams://", "nats://", "amqp://", "mqtt://", "kafka://"],
)
async def test_an_unknown_host_is_a_connection_error(url: str) -> None:
    with pytest.raises(DriverConnectionError) as caught:
        async with GoEvent(f"{url}no-such-host.invalid"):
            pytest.fail("it opened")
    assert len(traceback.format_exception(caught.value)) <= 10


async def test_an_escalated_failure_leaves_bare(autojump_clock: MockClock) -> None:
    def fail(event: Sent) -> None:
        raise ValueError("escalates")

    bus = GoEvent(Config(registry=REGISTRY))
    bus.subscribe(fail, Sent, supervision=Supervision("escalate"))

    async def body() -> None:
        await bus.dispatch(Sent())
        await trio.sleep_forever()

    with pytest.raises(EventError):
        await run_inside(bus, body)
