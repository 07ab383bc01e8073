"""The public API is as documented: signatures, docstrings and error types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, cast

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping
from tests.support.middleware import AroundDispatch
from trio.testing import MockClock, wait_all_tasks_blocked

import goevent
import goevent.drivers
import goevent.middleware
import goevent.testing
import goevent_faststream
import goevent_redis
from goevent import (
    Codec,
    Config,
    DeadlockError,
    DecodeError,
    DispatchHandle,
    EncodeError,
    Envelope,
    Event,
    EventError,
    EventVetoed,
    GoEvent,
    MailboxFull,
    MemoryDriver,
    MemoryHub,
    NestingError,
    UnsupportedError,
    Veto,
)
from goevent_redis import RedisStreamsDriver

MODULES: tuple[ModuleType, ...] = (
    goevent,
    goevent.drivers,
    goevent.middleware,
    goevent.testing,
    goevent_redis,
    goevent_faststream,
)


class Rate(Event, name="api.rate", registry=REGISTRY):
    value: float = 0.0


def public_classes() -> dict[str, type[Any]]:
    return {
        f"{module.__name__}.{name}": value
        for module in MODULES
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type)
    }


def methods_of(cls: type[Any]) -> Iterator[str]:
    """Yield the public methods that our own classes define."""
    for name in sorted(dir(cls)):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        ours = owner.__module__.partition(".")[0] in {"goevent", "goevent_redis"}
        if ours and not name.startswith("_") and callable(getattr(cls, name)):
            yield name


METHODS = [
    pytest.param(cls, method, id=f"{name}.{method}")
    for name, cls in public_classes().items()
    for method in methods_of(cls)
]


def documented_arguments(doc: str) -> set[str]:
    """Return the names in the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    return (
        set(re.findall(r"^    \*{0,2}(\w+):", section.group(1), re.MULTILINE)) if section else set()
    )


@pytest.mark.parametrize(("cls", "method"), METHODS)
def test_a_method_has_a_docstring_and_shows_only_documented_parameters(
    cls: type[Any], method: str
) -> None:
    function = getattr(cls, method)
    doc = inspect.getdoc(function)
    assert doc
    parameters = set(inspect.signature(function).parameters)
    assert not [name for name in parameters if name.startswith("_")]
    assert documented_arguments(doc) <= parameters


def instances() -> list[Any]:
    bus = GoEvent(Config(registry=REGISTRY))
    return [
        bus,
        bus.subscribe(print, "test.ping"),
        bus.snapshot(),
        DispatchHandle(),
        Ping(),
        REGISTRY,
        goevent.Config(),
        goevent.JsonCodec(),
        goevent.Ledger(),
        goevent.ListenerOptions(),
        goevent.MemoryDriver(),
        goevent.MemoryHub(),
        goevent.MsgpackCodec(),
        goevent.Retry(),
        goevent.middleware.LogEvents(),
        goevent.testing.Recorder(),
        goevent_faststream.EnvelopeFormat(),
        goevent_faststream.FastStreamFormat(),
        goevent_redis.Link(goevent_redis.RedisConfig()),
        goevent_redis.Pool(goevent_redis.RedisConfig()),
        goevent_redis.RedisConfig(),
        goevent_redis.RedisDriver(),
        goevent_redis.RedisStreamsDriver("redis+streams://localhost?group=api"),
        goevent_redis.StreamsConfig(),
    ]


@pytest.mark.parametrize("instance", instances(), ids=lambda each: type(each).__name__)
def test_a_method_is_the_same_on_the_class_and_on_an_instance(instance: object) -> None:
    cls = type(instance)
    for name in methods_of(cls):
        on_class, bound = getattr(cls, name), getattr(instance, name)
        signature = inspect.signature(on_class)
        parameters = list(signature.parameters.values())
        if not inspect.ismethod(on_class) and not isinstance(
            inspect.getattr_static(cls, name), staticmethod
        ):
            parameters = parameters[1:]
        assert inspect.signature(bound) == signature.replace(parameters=parameters), name
        assert inspect.getdoc(bound) == inspect.getdoc(on_class), name
        assert inspect.iscoroutinefunction(bound) == inspect.iscoroutinefunction(on_class), name
        assert bound.__name__ == on_class.__name__, name


def test_a_handle_shows_users_its_documented_attributes_and_no_other() -> None:
    assert [name for name in dir(DispatchHandle) if not name.startswith("_")] == [
        "causation_id",
        "correlation_id",
        "done",
        "errors",
        "event",
        "event_name",
        "headers",
        "id",
        "in_batch",
        "is_request",
        "listeners",
        "outcome",
        "pending",
        "raise_errors",
        "receipt",
        "receivers",
        "remote",
        "wait",
    ]


@pytest.mark.parametrize("method", ["dispatch", "dispatch_nowait"])
def test_dispatch_takes_an_event_and_a_scope(method: str) -> None:
    function = getattr(GoEvent(), method)
    scope = ", *, scope: 'Scope' = 'local'" if method == "dispatch" else ""
    assert str(inspect.signature(function)) == f"(event: 'AnyEvent'{scope}) -> 'DispatchHandle'"
    assert (inspect.getdoc(function) or "").startswith("Dispatch an event")
    with pytest.raises(TypeError):
        function(Ping(), True)
    assert function.__qualname__ == f"GoEvent.{method}"


# -- errors


def is_public(kind: type[BaseException]) -> bool:
    """Tell whether an exception class can be named by users: one of ours, Trio's or Python's."""
    if kind.__module__.partition(".")[0] in {"goevent", "goevent_redis", "goevent_faststream"}:
        return any(kind is cls for cls in public_classes().values())
    return "._" not in kind.__module__


def assert_public(error: BaseException | None) -> None:
    """Check an exception, and all that its traceback would show."""
    while error is not None:
        assert is_public(type(error)), type(error)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            for each in group.exceptions:
                assert_public(each)
        if error.__cause__ is not None:
            assert_public(error.__cause__)
        error = error.__context__


async def fill(bus: GoEvent, **options: Any) -> None:
    """Have a listener that never ends, and fill its mailbox."""

    async def stuck(event: Ping) -> None:
        await trio.sleep_forever()

    bus.subscribe(stuck, Ping, mailbox=1, **options)
    bus.dispatch_nowait(Ping())
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Ping())


@pytest.mark.parametrize("middleware", [(), (AroundDispatch(),)], ids=["ordinary", "special"])
async def test_a_full_mailbox_is_exactly_trio_would_block(
    middleware: tuple[AroundDispatch, ...], autojump_clock: MockClock
) -> None:
    config = Config(registry=REGISTRY, middleware=middleware, close_timeout=0)
    async with GoEvent(config) as bus:
        bus.on_error(ignore_error)
        await fill(bus)
        with pytest.raises(trio.WouldBlock) as caught:
            bus.dispatch_nowait(Ping())
        assert type(caught.value) is trio.WouldBlock
        assert_public(caught.value)


@pytest.mark.parametrize("middleware", [(), (AroundDispatch(),)], ids=["ordinary", "special"])
async def test_a_full_mailbox_under_error_is_exactly_mailbox_full(
    middleware: tuple[AroundDispatch, ...], autojump_clock: MockClock
) -> None:
    config = Config(registry=REGISTRY, middleware=middleware, close_timeout=0)
    async with GoEvent(config) as bus:
        bus.on_error(ignore_error)
        await fill(bus, overflow="error")
        with pytest.raises(MailboxFull) as caught:
            bus.dispatch_nowait(Ping())
        assert_public(caught.value)
        with pytest.raises(MailboxFull) as caught:
            await bus.dispatch(Ping())
        assert_public(caught.value)


@pytest.mark.parametrize("middleware", [(), (AroundDispatch(),)], ids=["ordinary", "special"])
async def test_a_dispatch_that_waits_for_itself_raises_only_public_errors(
    middleware: tuple[AroundDispatch, ...], autojump_clock: MockClock
) -> None:
    caught: list[BaseException] = []
    async with GoEvent(Config(registry=REGISTRY, middleware=middleware)) as bus:

        @bus.listener(Ping, mailbox=1)
        async def again(event: Ping) -> None:
            if event.n == 0:
                bus.dispatch_nowait(Ping(1))
                try:
                    await bus.dispatch(Ping(1))
                except DeadlockError as error:
                    caught.append(error)

        await bus.dispatch(Ping())
    assert len(caught) == 1
    assert_public(caught[0])


async def test_refused_calls_raise_only_public_errors(autojump_clock: MockClock) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    kinds: list[type[BaseException]] = []

    async def refuse(call: Callable[[], Any]) -> None:
        try:
            result = call()
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            assert_public(error)
            kinds.append(type(error))
        else:
            pytest.fail("it was not refused")

    async def inline(event: Event) -> None: ...

    await refuse(lambda: bus.dispatch(Ping()))
    await refuse(lambda: bus.dispatch_nowait(Ping()))
    await refuse(lambda: bus.dispatch_from_thread(Ping()))
    await refuse(lambda: bus.register_listener(object()))  # type: ignore[arg-type]
    await refuse(lambda: bus.subscribe(inline, "no name"))
    assert kinds == [RuntimeError, RuntimeError, RuntimeError, TypeError, ValueError]
    kinds.clear()
    async with bus:
        bus.subscribe(inline, "api.inline", async_=False)
        await refuse(lambda: bus.dispatch_nowait(Event("api.inline")))
        await refuse(lambda: bus.dispatch(Event("test.ping", {"n": "many"})))
        await refuse(lambda: bus.dispatch_nowait(object()))  # type: ignore[arg-type]  # pyright: ignore
        await refuse(lambda: bus.dispatch_from_thread(Ping()))
        await refuse(lambda: bus.replay("test.ping"))
    await refuse(lambda: bus.dispatch(Ping()))
    assert kinds == [
        TypeError,
        DecodeError,
        TypeError,
        RuntimeError,
        UnsupportedError,
        goevent.BusClosed,
    ]


async def test_nesting_without_an_end_raises_only_public_errors() -> None:
    async with GoEvent(Config(registry=REGISTRY)) as bus:
        caught: list[BaseException] = []

        def loop(event: Ping) -> None:
            try:
                bus.dispatch_nowait(Ping())
            except NestingError as error:
                caught.append(error)

        bus.subscribe(loop, Ping)
        bus.dispatch_nowait(Ping())
    assert len(caught) == 1
    assert_public(caught[0])


class Vetoes:
    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        raise Veto("no")
        yield

    def around_call(self, delivery: goevent.Delivery, /) -> Iterator[None]:
        raise Veto("no")
        yield


class FailingHooks:
    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        yield
        raise KeyError("after")

    def around_call(self, delivery: goevent.Delivery, /) -> Iterator[None]:
        raise KeyError("before")
        yield


class Watches:
    """Middleware around others: keeps the exceptions that it sees at its yield."""

    def __init__(self) -> None:
        self.seen: list[BaseException] = []

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        yield from self._watched()

    def around_call(self, delivery: goevent.Delivery, /) -> Iterator[None]:
        yield from self._watched()

    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.seen.append(error)
            raise


@pytest.mark.parametrize("inner", [Vetoes(), FailingHooks()], ids=["veto", "failure"])
@pytest.mark.parametrize("method", ["dispatch", "dispatch_nowait"])
@pytest.mark.parametrize("async_", [False, True], ids=["inline", "mailbox"])
async def test_errors_of_middleware_are_public_wherever_they_show(
    inner: Any, method: str, async_: bool, autojump_clock: MockClock
) -> None:
    watches = Watches()
    shown: list[BaseException] = []
    config = Config(registry=REGISTRY, middleware=(watches, inner))
    async with GoEvent(config) as bus:
        bus.on_error(shown.append)

        def listen(event: Ping) -> None: ...

        bus.subscribe(listen, Ping, async_=async_)
        handle = getattr(bus, method)(Ping())
        if inspect.isawaitable(handle):
            handle = await handle
        await handle.wait()
        with pytest.raises(ExceptionGroup) as caught:
            handle.raise_errors()
    assert watches.seen
    for error in (*watches.seen, *shown, *handle.errors, *bus.errors):
        assert_public(error)
    expected = {EventVetoed} if isinstance(inner, Vetoes) else {EventError}
    assert {type(error) for error in handle.errors} == expected
    for error in caught.value.exceptions:
        assert is_public(type(error))


@pytest.mark.parametrize(
    "codec", [goevent.JsonCodec(max_size=200), goevent.MsgpackCodec(max_size=200)]
)
@pytest.mark.parametrize(
    "fields",
    [
        {"event": Rate(float("nan"))},
        {"headers": {"name": "x" * 500}},
        {"headers": {"name": 1}},
        {"seq": 2**70},
    ],
    ids=["nan", "too large", "header that is not text", "number beyond int64"],
)
def test_a_codec_refuses_to_encode_with_exactly_an_encode_error(
    codec: Codec, fields: dict[str, Any]
) -> None:
    envelope: dict[str, Any] = {
        "event_name": "api.rate",
        "event_type": "api.rate",
        "event": Rate(),
        "handle_id": "0123456789abcdef",
        "timestamp": 1,
    }
    with pytest.raises(EncodeError) as caught:
        codec.encode(Envelope(**{**envelope, **fields}))
    assert type(caught.value) is EncodeError


@pytest.mark.parametrize(
    "codec", [goevent.JsonCodec(max_size=200), goevent.MsgpackCodec(max_size=200)]
)
@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"x" * 500, b"{}", b"\x80"],
    ids=["garbage", "too large", "{}", "empty map"],
)
def test_a_codec_refuses_to_decode_with_exactly_a_decode_error(codec: Codec, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decode(data, event_name="api.rate", registry=REGISTRY)
    assert type(caught.value) is DecodeError


def test_bus_shows_its_driver() -> None:
    driver = MemoryDriver(MemoryHub())
    assert GoEvent(driver).driver is driver
    assert GoEvent(Config(driver=driver)).driver is driver
    by_url = GoEvent("redis+streams://localhost?group=billing").driver
    assert isinstance(by_url, RedisStreamsDriver)
    assert by_url.streams.group == "billing"


def test_subclass_may_keep_an_attribute_named_driver() -> None:
    class Keeping(GoEvent):
        def __init__(self) -> None:
            self.driver = MemoryDriver(MemoryHub())
            super().__init__(self.driver)

    assert isinstance(Keeping().driver, MemoryDriver)
