"""Blocking listeners run in threads and do not stop the rest of the program."""

# --8<-- [start:setup]
import threading
import time

import trio

from goevent import Event, GoEvent


class PhotoUploaded(Event, name="photo.uploaded"):
    number: int


class PhotoScaled(Event, name="photo.scaled"):
    number: int


bus = GoEvent()
both = threading.Barrier(2, lambda: print("two back-ups at once"))


# --8<-- [end:setup]


# --8<-- [start:thread]
@bus.listener(PhotoUploaded, thread=True)  # in a thread, one photo at a time
def scale(event: PhotoUploaded) -> None:
    time.sleep(0.1)
    bus.dispatch_from_thread(PhotoScaled(number=event.number))


@bus.listener(PhotoUploaded, thread=True, concurrency=2)  # up to two threads
def back_up(event: PhotoUploaded) -> None:
    both.wait(5)  # blocks until a second thread is here


@bus.listener(PhotoScaled)
async def publish(event: PhotoScaled) -> None:
    print(f"photo {event.number} is scaled")


async def main() -> None:
    async with bus:
        for number in (1, 2):
            await bus.dispatch(PhotoUploaded(number=number))
        print("dispatched")
    # --8<-- [end:thread]


if __name__ == "__main__":
    trio.run(main)
