"""What type checkers must refuse: exactly the lines with a mark; checked, never run."""

from dataclasses import dataclass
from functools import partial

import msgspec
from pydantic import BaseModel

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventError,
    GoEvent,
    ListenerOptions,
    register_event_type,
)


class UserCreated(Event, name="user.created"):
    user_id: int
    email: str = ""


class UserDeleted(Event, name="user.deleted"):
    user_id: int


class OrderPaid(Event, name="order.paid"):
    total: float


@register_event_type(name="order.sent")
@dataclass
class OrderSent:
    total: float


@register_event_type(name="order.lost")
class OrderLost(BaseModel):
    total: float


@register_event_type(name="order.found")
class OrderFound(msgspec.Struct):
    total: float


class E1(Event, name="e.1"): ...


class E2(Event, name="e.2"): ...


class E3(Event, name="e.3"): ...


class E4(Event, name="e.4"): ...


class E5(Event, name="e.5"): ...


class E6(Event, name="e.6"): ...


class E7(Event, name="e.7"): ...


class E8(Event, name="e.8"): ...


class Service:
    def on_created(self, event: UserCreated) -> None: ...


class Handler:
    def __call__(self, event: UserCreated) -> None: ...


def with_a_number(number: int, event: UserCreated) -> None: ...


users: list[UserCreated] = []
bus = GoEvent()


# -- a handler of another type


@bus.listener(UserCreated)  # E: the handler takes another event
def of_another(event: UserDeleted) -> None: ...


@bus.listener(UserCreated)  # E: the same for an async one
async def async_of_another(event: UserDeleted) -> None: ...


@bus.listener(UserCreated)  # E: an event is not an int
def of_an_int(event: int) -> None: ...


@bus.listener(UserCreated, UserDeleted)  # E: it takes only one of the two
def of_one_of_two(event: UserCreated) -> None: ...


@bus.listener(UserCreated, UserDeleted)  # E: the same for an async one
async def async_of_one_of_two(event: UserDeleted) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid)  # E: it takes only two of the three
def of_two_of_three(event: UserCreated | UserDeleted) -> None: ...


@bus.listener(UserCreated, UserDeleted, OrderPaid, OrderSent)  # E: three of four
def of_three_of_four(event: UserCreated | UserDeleted | OrderPaid) -> None: ...


@bus.listener(E1, E2, E3, E4, E5, E6, E7, E8)  # E: seven of eight
async def of_seven_of_eight(event: E1 | E2 | E3 | E4 | E5 | E6 | E7) -> None: ...


def takes_created(event: UserCreated) -> None: ...
async def takes_deleted(event: UserDeleted) -> None: ...
def takes_three(event: UserCreated | UserDeleted | OrderPaid) -> None: ...
async def takes_seven(event: E1 | E2 | E3 | E4 | E5 | E6 | E7) -> None: ...
def takes_an_int(event: int) -> None: ...


bus.subscribe(takes_created, UserDeleted)  # E: the handler takes another event
bus.subscribe(takes_created, UserCreated, UserDeleted)  # E: it takes only one of the two
bus.subscribe(takes_deleted, UserCreated)  # E: the same for an async one
bus.subscribe(takes_three, UserCreated, UserDeleted, OrderPaid, OrderSent)  # E: three of four
bus.subscribe(takes_seven, E1, E2, E3, E4, E5, E6, E7, E8)  # E: seven of eight
bus.subscribe(Service().on_created, UserDeleted)  # E: a method of another event
bus.subscribe(Handler(), UserDeleted)  # E: an object of another event
bus.subscribe(users.append, UserDeleted)  # E: it takes users only
bus.subscribe(partial(with_a_number, 1), UserDeleted)  # E[pyright]: mypy does not read partials
bus.subscribe(lambda event: users.append(event.nothing), UserCreated)  # E: no such field
bus.subscribe(takes_an_int, UserCreated, name="x")  # E: an event is not an int


# -- a call of another form


def taking_nothing() -> None: ...


bus.subscribe(taking_nothing, UserCreated)  # E: no parameter
bus.subscribe(takes_created)  # E: for which event?
bus.subscribe(UserCreated, takes_created)  # E: the function comes first
bus.subscribe("user.created", takes_created)  # E: the function comes first
bus.subscribe(takes_created, UserCreated(1))  # E: an event, not its class
bus.subscribe(takes_created, UserCreated, mailbox="x")  # E: a number
bus.subscribe(takes_created, [1])  # E: no event


# -- a handler of another shape


@bus.listener(UserCreated)  # E: no parameter
def of_nothing() -> None: ...


@bus.listener(UserCreated)  # E: two parameters
def of_two(event: UserCreated, other: int) -> None: ...


@bus.listener(UserCreated)  # E: only by keyword
def by_keyword(*, event: UserCreated) -> None: ...


@bus.listener(UserCreated)  # E: it returns something
def returning(event: UserCreated) -> int:
    return 1


@bus.listener(UserCreated)  # E: it returns something later
async def returning_later(event: UserCreated) -> int:
    return 1


@bus.listener("user.created")  # E: no parameter
def by_name_of_nothing() -> None: ...


@bus.listener("user.created")  # E: two parameters
async def by_name_of_two(event: UserCreated, other: int) -> None: ...


@bus.listener("user.created")  # E: it returns something
def by_name_returning(event: UserCreated) -> str:
    return ""


# -- options


@bus.listener(UserCreated, mailbox="x")  # E: a number
async def wrong_mailbox(event: UserCreated) -> None: ...


@bus.listener(UserCreated, overflow="nope")  # E: one of four
async def wrong_overflow(event: UserCreated) -> None: ...


@bus.listener(UserCreated, patience=3)  # E: no such option
async def unknown_option(event: UserCreated) -> None: ...


@bus.listener("user.created", name=3)  # E: a name is text
async def wrong_name(event: UserCreated) -> None: ...


@bus.listener()  # E: for which event?
async def of_no_event(event: UserCreated) -> None: ...


@bus.listener(7)  # E: neither a name nor a class
async def of_a_number(event: UserCreated) -> None: ...


@bus.listener  # E: it has to be called
async def not_called(event: UserCreated) -> None: ...


bus.subscribe(print, UserCreated, patience=3)  # E: no such option
ListenerOptions(10)  # E: only by keyword
ListenerOptions(mailbox="10")  # E: a number
Config(close_timeout="soon")  # E: seconds
Config(max_depth=3)  # E: no such setting
GoEvent(7)  # E: no driver
GoEvent(driver="memory")  # E: its parameter is called config

# -- events

UserCreated()  # E: user_id is missing
UserCreated(user_id="7")  # E: a number
UserCreated(1, "a@b", 3)  # E: two fields
UserCreated(user_id=1, nickname="A")  # E: no such field
UserCreated(1).user_id = 2  # E: frozen
UserCreated(1).nickname  # E: no such field  # noqa: B018
Event(7)  # E: a name is text
Event("user.created", 7)  # E: a payload is a mapping
Event("user.created", {1: "a"})  # E: its keys are text


class Nameless(Event, naem="x.y"):  # E[pyright]: no such class argument
    pass


class Numbered(Event, name=7):  # E[pyright]: a name is text
    pass


# -- the rest


class NoListener:
    event_name = "user.created"


bus.register_listener(NoListener())  # E: it has no on_event
bus.register_listener(print)  # E: no object with a name


@bus.on_error  # E: an error, not an event
def wrong_error(error: int) -> None: ...


@bus.on_error  # E: no parameter
def no_error() -> None: ...


async def main() -> None:
    handle: int = await bus.dispatch(UserCreated(1))  # E: a handle
    later: DispatchHandle = bus.dispatch(UserCreated(1))  # E: not awaited
    now: DispatchHandle = await bus.dispatch_nowait(UserCreated(1))  # E: nothing to await
    bus.errors.append(EventError("a", "b"))  # E: a tuple
    bus.error_count = 0  # E: read only
    now.done = True  # E: read only
    await bus.close(timeout="soon")  # E: seconds
    await bus.dispatch("user.created")  # E: a name
    await bus.dispatch(UserCreated)  # E: a class
    await bus.dispatch(OrderSent)  # E: the class of a dataclass
    await bus.dispatch(OrderLost)  # E: the class of a model
    await bus.dispatch(OrderFound)  # E: the class of a struct
    await bus.dispatch(None)  # E: nothing
    await bus.dispatch({"user_id": 1})  # E: a payload
    await bus.dispatch([UserCreated(1)])  # E: a list
    await bus.dispatch("user.created", {"user_id": 1})  # E: a name and a payload
    bus.dispatch_nowait("user.created")  # E: a name
    bus.dispatch_nowait(UserCreated)  # E: a class
    bus.dispatch_from_thread("user.created")  # E: a name
    bus.dispatch_from_thread(UserCreated)  # E: a class
    bus.dispatch(UserCreated(1))  # E: not awaited
    assert handle
    assert later
