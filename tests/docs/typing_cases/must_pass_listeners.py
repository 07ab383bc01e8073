"""What type checkers must accept; checked, never run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_type

import attrs
import msgspec
from pydantic import BaseModel

from goevent import (
    AnyEvent,
    Config,
    DispatchHandle,
    Event,
    EventError,
    GoEvent,
    Ledger,
    ListenerOptions,
    Registration,
    register_event_type,
    upcast,
)


class UserCreated(Event, name="user.created", key="user_id"):
    user_id: int
    email: str = ""


class UserDeleted(Event, name="user.deleted"):
    user_id: int


class Admin(UserCreated, name="admin.created"):
    level: int = 0


@register_event_type(name="order.paid")
@dataclass(frozen=True)
class OrderPaid:
    total: float


bus = GoEvent()
GoEvent("memory://")
GoEvent(Config(close_timeout=1.5, listener=ListenerOptions(mailbox=10)))


@bus.listener(UserCreated)
def inline(event: UserCreated) -> None: ...


@bus.listener(UserCreated)
async def queued(event: UserCreated) -> None: ...


@bus.listener(UserCreated, mailbox=10, overflow="drop_old", name="welcome")
async def with_options(event: UserCreated) -> None: ...


@bus.listener(UserCreated, async_=True)
def with_a_mailbox(event: UserCreated) -> None: ...


@bus.listener(UserCreated)
def wider(event: Event) -> None: ...


@bus.listener(UserCreated)
def anything(event: object) -> None: ...


@bus.listener(Admin)
def of_the_base(event: UserCreated) -> None: ...


@bus.listener(UserCreated, UserDeleted)
async def two(event: UserCreated | UserDeleted) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid)
def three(event: UserCreated | UserDeleted | OrderPaid) -> None: ...


@bus.listener(OrderPaid)
def of_a_dataclass(event: OrderPaid) -> None: ...


@bus.listener("user.created")
async def by_name(event: UserCreated) -> None: ...


@bus.listener("user.created", "user.deleted", UserCreated)
def by_names(event: Any) -> None: ...


@bus.listener(UserCreated, "user.deleted")
def by_class_and_name(event: Any) -> None: ...


class E1(Event, name="e.1"): ...


class E2(Event, name="e.2"): ...


class E3(Event, name="e.3"): ...


class E4(Event, name="e.4"): ...


Eight = UserCreated | UserDeleted | OrderPaid | Admin | E1 | E2 | E3 | E4


@bus.listener(UserCreated, UserDeleted, OrderPaid, Admin)
def four(event: UserCreated | UserDeleted | OrderPaid) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid, Admin, E1, E2, E3, E4, mailbox=10)
async def eight(event: Eight) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid, Admin, E1, E2, E3, E4)
def eight_wider(event: object) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid, Admin, E1, E2, E3, E4, Event)
def nine(event: Any) -> None: ...


@bus.listener([UserCreated, UserDeleted])
def of_a_list(event: UserCreated | UserDeleted) -> None: ...


@bus.listener((UserCreated, "user.deleted"), async_=True)
def of_a_tuple(event: UserCreated | UserDeleted) -> None: ...


CLASSES = [UserCreated, UserDeleted]


@bus.listener(CLASSES)
def of_a_list_by_name(event: UserCreated | UserDeleted) -> None: ...


@bus.listener(*CLASSES)
def of_an_unpacked_list(event: Event) -> None: ...


def options() -> dict[str, Any]:
    return {"mailbox": 10}


@bus.listener(UserCreated, **options())
async def with_unknown_options(event: UserCreated) -> None: ...


class Service:
    def register(self) -> None:
        bus.listener(UserCreated)(self.on_created)

    async def on_created(self, event: UserCreated) -> None: ...


class Audit:
    event_name = "user.created"
    options = ListenerOptions(mailbox=5)

    async def on_event(self, event: UserCreated) -> None: ...


@bus.on_error
def on_error(error: EventError) -> None: ...


@bus.on_error
async def on_error_later(error: EventError) -> None: ...


async def main() -> None:
    async with bus as opened:
        assert_type(opened, GoEvent)
        handle = await bus.dispatch(UserCreated(user_id=1))
        assert_type(handle, DispatchHandle)
        assert_type(bus.dispatch_nowait(UserCreated(1, "a@b")), DispatchHandle)
        assert_type(bus.dispatch_from_thread(OrderPaid(1.0)), DispatchHandle)
        await bus.dispatch(Event("order.shipped", {"id": 1}))
        await handle.wait()
        assert_type(handle.errors, tuple[EventError, ...])
        assert_type(handle.done, bool)
        assert_type(await bus.close(timeout=1), Ledger)
    assert_type(bus.register_listener(Audit(), Audit()), Registration)
    assert_type(bus.subscribe(inline, UserCreated, name="again"), Registration)
    inline(UserCreated(1))
    await queued(UserCreated(1))
    for error in bus.errors:
        assert_type(error.listener, str)
        assert_type(error.error, BaseException | None)


def with_a_number(number: int, event: UserCreated) -> None: ...


class Handler:
    async def __call__(self, event: UserCreated | UserDeleted) -> None: ...


async def forward(*names: str | type, handler: Callable[[Any], object]) -> Registration:
    return bus.subscribe(handler, *names)


def of_any_event(event: Event) -> None: ...


def of_any_object(event: object) -> None: ...


seen: list[object] = []
bus.subscribe(inline, Admin)
bus.subscribe(queued, UserCreated)
bus.subscribe(of_any_event, UserCreated, UserDeleted)
bus.subscribe(of_any_object, UserCreated, OrderPaid)
bus.subscribe(two, UserCreated, UserDeleted)
bus.subscribe(two, UserDeleted)
bus.subscribe(eight, UserCreated, UserDeleted, OrderPaid, Admin, E1, E2, E3, E4)
bus.subscribe(nine, UserCreated, UserDeleted, OrderPaid, Admin, E1, E2, E3, E4, Event)
bus.subscribe(two, [UserCreated, UserDeleted])
bus.subscribe(two, CLASSES, timeout=1.0)
bus.subscribe(two, *CLASSES)
bus.subscribe(by_names, "user.*", UserCreated, "user.deleted")
bus.subscribe(by_names, UserCreated, "user.deleted")
bus.subscribe(Service().on_created, UserCreated)
bus.subscribe(Handler(), UserCreated, UserDeleted)
bus.subscribe(partial(with_a_number, 1), UserCreated)
bus.subscribe(seen.append, UserCreated, OrderPaid)
bus.subscribe(print, UserCreated)
bus.subscribe(lambda event: seen.append(event.email), UserCreated)
bus.subscribe(lambda event: seen.append(event), UserCreated, UserDeleted)
bus.subscribe(inline, UserCreated, **options())


@register_event_type(name="order.lost")
class OrderLost(BaseModel):
    total: float


@register_event_type(name="order.found")
class OrderFound(msgspec.Struct):
    total: float


@register_event_type(name="order.split")
@attrs.frozen
class OrderSplit:
    total: float


async def dispatch_all(anyone: Any, event: AnyEvent, mine: Event) -> None:
    for each in (OrderPaid(1.0), OrderLost(total=1.0), OrderFound(1.0), OrderSplit(1.0)):
        handle = await bus.dispatch(each)
        assert_type(handle, DispatchHandle)
        await bus.dispatch(handle.event)
    assert_type(await bus.dispatch(anyone), DispatchHandle)
    assert_type(bus.dispatch_nowait(event), DispatchHandle)
    assert_type(bus.dispatch_nowait(mine), DispatchHandle)
    assert_type(handle.listeners, int)


handler: Callable[[UserCreated], None] = inline
assert_type(UserCreated(user_id=1).user_id, int)
assert_type(UserCreated.event_name, str)
assert_type(UserCreated(1).payload(), dict[str, Any])


@upcast(UserDeleted, to=UserCreated)
def deleted_to_created(old: UserDeleted) -> UserCreated:
    return UserCreated(user_id=old.user_id)
