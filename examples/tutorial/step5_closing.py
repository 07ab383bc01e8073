# --8<-- [start:setup]
import trio

from goevent import Event, EventError, GoEvent


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


bus = GoEvent()


# --8<-- [end:setup]


# --8<-- [start:closing]
@bus.listener(SeatBooked)
async def send_mail(event: SeatBooked) -> None:
    await trio.sleep(0.2)


@bus.on_error
def report(error: EventError) -> None:
    print(error)


async def main() -> None:
    async with bus:
        for seat in range(1, 6):
            await bus.dispatch(SeatBooked(show="Hamlet", seat=seat))
        ledger = await bus.close(timeout=0.5)  # time for two mails
        print(ledger)
    # --8<-- [end:closing]


if __name__ == "__main__":
    trio.run(main)
