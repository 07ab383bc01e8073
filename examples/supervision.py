"""A broken listener: restart it, end the bus if that does not help, or stop the listener."""

# --8<-- [start:setup]
import trio

from goevent import Event, EventError, GoEvent, ListenerOptions, Supervision


class MailRequested(Event, name="mail.requested"):
    to: str


# --8<-- [end:setup]


# --8<-- [start:listener]
class Mailer:
    """Holds a connection that a bad address breaks; only a new connection helps then."""

    event_name = "mail.requested"
    options = ListenerOptions(supervision=Supervision("restart", max_restarts=2, backoff=0.01))
    connections = 0

    def __init__(self) -> None:
        Mailer.connections += 1
        self.connection = f"connection {Mailer.connections}"

    async def on_event(self, event: MailRequested) -> None:
        if "@" not in event.to:
            raise ConnectionError(f"{self.connection} broke on {event.to!r}")
        print(f"{self.connection}: mail to {event.to}")


# --8<-- [end:listener]


# --8<-- [start:restart]
async def restart() -> None:
    bus = GoEvent()
    bus.register_listener(Mailer)  # the class: the bus creates the object

    @bus.on_error
    def report(error: EventError) -> None:
        print(error.reason)

    try:
        async with bus:
            for to in ("ann@a.org", "bob", "cy@c.org", "dee", "eve@e.org", "fay"):
                handle = await bus.dispatch(MailRequested(to=to))
                await handle.wait()
            await trio.sleep_forever()  # as a server would
    except EventError as error:
        print(f"the bus has ended: {error}")


# --8<-- [end:restart]


# --8<-- [start:stop]
async def stop() -> None:
    bus = GoEvent()

    @bus.listener(MailRequested, name="archive", supervision=Supervision("stop"))
    async def archive(event: MailRequested) -> None:
        raise OSError("the disk is full")

    async with bus:
        # Neither of the two lets the listener run before both events are in its mailbox.
        first = bus.dispatch_nowait(MailRequested(to="ann@a.org"))
        second = bus.dispatch_nowait(MailRequested(to="cy@c.org"))
        await bus.wait()
        for error in (*first.errors, *second.errors):
            print(error)
        print(f"listeners left: {len(bus.snapshot().listeners)}")


# --8<-- [end:stop]


async def main() -> None:
    await restart()
    await stop()


if __name__ == "__main__":
    trio.run(main)
