import trio

from goevent import Event, GoEvent


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


bus = GoEvent()


@bus.listener(SeatBooked)
def print_ticket(event: SeatBooked) -> None:
    print(f"ticket: seat {event.seat}")


# --8<-- [start:mail]
@bus.listener(SeatBooked)
async def send_mail(event: SeatBooked) -> None:
    await trio.sleep(0.1)  # a slow mail server
    print(f"mail: seat {event.seat}")


async def main() -> None:
    async with bus:
        first = await bus.dispatch(SeatBooked(show="Hamlet", seat=12))
        second = await bus.dispatch(SeatBooked(show="Hamlet", seat=13))
        print(f"dispatched; mails to send: {first.pending + second.pending}")
        await second.wait()
        print(f"sent: {second.done}")
        # --8<-- [end:mail]


if __name__ == "__main__":
    trio.run(main)
