# --8<-- [start:setup]
import trio

from goevent import Event, EventError, GoEvent

# --8<-- [end:setup]


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


bus = GoEvent()


# --8<-- [start:errors]
@bus.listener(SeatBooked)
def print_ticket(event: SeatBooked) -> None:
    if event.seat > 500:
        raise ValueError(f"there is no seat {event.seat}")
    print(f"ticket: seat {event.seat}")


@bus.listener(SeatBooked)
async def send_mail(event: SeatBooked) -> None:
    print(f"mail: seat {event.seat}")


@bus.on_error
def report(error: EventError) -> None:
    print(f"on_error: {error}")


async def main() -> None:
    async with bus:
        handle = await bus.dispatch(SeatBooked(show="Hamlet", seat=501))
        await handle.wait()
        for error in handle.errors:
            print(f"{error.listener} raised {type(error.error).__name__}")
    # --8<-- [end:errors]


if __name__ == "__main__":
    trio.run(main)
