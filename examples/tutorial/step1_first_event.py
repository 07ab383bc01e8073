import trio

from goevent import Event, GoEvent


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


bus = GoEvent()


@bus.listener(SeatBooked)
def print_ticket(event: SeatBooked) -> None:
    print(f"ticket: {event.show}, seat {event.seat}")


async def main() -> None:
    async with bus:
        await bus.dispatch(SeatBooked(show="Hamlet", seat=12))


if __name__ == "__main__":
    trio.run(main)
