"""Dispatch events from a thread with `dispatch_from_thread`, the only method it may call."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent


class FileRead(Event, name="file.read"):
    lines: int


bus = GoEvent()


# --8<-- [end:setup]


@bus.listener(FileRead)
def show(event: FileRead) -> None:
    print(f"{event.lines} lines")


# --8<-- [start:thread]
def read_file() -> None:
    with open(__file__) as file:
        bus.dispatch_from_thread(FileRead(lines=len(file.readlines())))


async def main() -> None:
    async with bus:
        await trio.to_thread.run_sync(read_file)
        # --8<-- [end:thread]


if __name__ == "__main__":
    trio.run(main)
