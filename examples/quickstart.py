import trio

from goevent import Event, GoEvent


class UserCreated(Event, name="user.created"):
    user_id: int


bus = GoEvent()


@bus.listener("user.created")  # a def runs inline, inside dispatch
def audit(event: UserCreated) -> None:
    print(f"audit: user {event.user_id}")


@bus.listener(UserCreated)  # an async def is an actor with a mailbox of its own
async def welcome(event: UserCreated) -> None:
    if event.user_id < 0:
        raise ValueError(f"no user has the number {event.user_id}")
    print(f"welcome: user {event.user_id}")


async def main() -> None:
    async with bus:
        for user_id in (7, -1):
            handle = await bus.dispatch(UserCreated(user_id=user_id))
            await handle.wait()
            print(f"done: {len(handle.errors)} error(s)")
            for error in handle.errors:
                print(f"  {error}")


if __name__ == "__main__":
    trio.run(main)
