"""What type checkers must accept; checked, never run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

from goevent import (
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


handler: Callable[[UserCreated], None] = inline
assert_type(UserCreated(user_id=1).user_id, int)
assert_type(UserCreated.event_name, str)
assert_type(UserCreated(1).payload(), dict[str, Any])


@upcast(UserDeleted, to=UserCreated)
def deleted_to_created(old: UserDeleted) -> UserCreated:
    return UserCreated(user_id=old.user_id)
