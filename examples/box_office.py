"""A box office that listens to its own bus; `testing_a_bus.py` tests it."""

from goevent import Event, GoEvent


class SeatBooked(Event, name="seat.booked"):
    show: str
    seat: int


class SoldOut(Event, name="show.sold-out"):
    show: str


class BoxOffice:
    """Listens to bookings and announces when a show is sold out."""

    def __init__(self, bus: GoEvent, seats: int) -> None:
        self._bus = bus
        self._free = dict.fromkeys(["Hamlet", "Macbeth"], seats)
        bus.subscribe(self.book, SeatBooked)

    async def book(self, event: SeatBooked) -> None:
        """Take one seat away."""
        if event.show not in self._free:
            raise LookupError(f"{event.show} is not on")
        self._free[event.show] -= 1
        if not self._free[event.show]:
            await self._bus.dispatch(SoldOut(show=event.show))
