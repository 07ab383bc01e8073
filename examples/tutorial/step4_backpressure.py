import trio

from goevent import Event, GoEvent


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


bus = GoEvent()


# --8<-- [start:mailbox]
@bus.listener(SeatBooked, mailbox=2)
async def send_mail(event: SeatBooked) -> None:
    await trio.sleep(0.1)
    print(f"mail: seat {event.seat}")


async def main() -> None:
    async with bus:
        for seat in range(1, 7):
            await bus.dispatch(SeatBooked(show="Hamlet", seat=seat))
            print(f"booked: seat {seat}")
        # --8<-- [end:mailbox]


if __name__ == "__main__":
    trio.run(main)
