"""The ways to register and unregister a listener."""

# --8<-- [start:setup]
from dataclasses import dataclass

import trio

from goevent import Event, GoEvent, ListenerOptions


class UserCreated(Event, name="user.created"):
    user_id: int


class UserDeleted(Event, name="user.deleted"):
    user_id: int


bus = GoEvent()


# --8<-- [end:setup]


# --8<-- [start:decorator]
@bus.listener(UserCreated)  # by class: type checkers refuse another handler type
def greet(event: UserCreated) -> None:
    print(f"hello {event.user_id}")


@bus.listener("user.created")  # by name: the annotation is checked when this line runs
async def index(event: UserCreated) -> None: ...


@bus.listener(UserCreated, UserDeleted, mailbox=10_000, name="audit log")
async def audit(event: UserCreated | UserDeleted) -> None: ...


# --8<-- [end:decorator]


# --8<-- [start:object]
@dataclass
class Counter:
    """A listener as an object, as in the Go library."""

    event_name: str
    seen: int = 0
    options = ListenerOptions(name="counter")  # optional

    def on_event(self, event: Event) -> None:
        self.seen += 1


# --8<-- [end:object]


async def main() -> None:
    # --8<-- [start:unregister]
    counter = Counter("user.created")
    registration = bus.register_listener(counter)
    also = bus.subscribe(print, UserDeleted)

    async with bus:
        await bus.dispatch(UserCreated(user_id=1))
        await bus.dispatch(UserDeleted(user_id=1))
        await bus.wait()
        registration.unregister()
        also.unregister()
        bus.unregister_listeners_for_event(UserCreated)
        await bus.dispatch(UserCreated(user_id=2))
    print(f"counted {counter.seen}")
    # --8<-- [end:unregister]


if __name__ == "__main__":
    trio.run(main)
