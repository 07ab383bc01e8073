"""The health of a bus, for the probes of a supervisor of processes."""

# --8<-- [start:health]
from goevent import Event, GoEvent
from goevent.telemetry.health import Health

bus = GoEvent()
health = Health(bus, stuck_after=60.0, listeners={"transcode": 3600.0})
# --8<-- [end:health]

import trio  # noqa: E402


@bus.listener("video.uploaded", name="transcode")
async def transcode(event: Event) -> None:
    await trio.sleep(0.01)


def show() -> None:
    # --8<-- [start:probe]
    for probe, report in (("live", health.live()), ("ready", health.ready())):
        print(probe, 200 if report.healthy else 503, *report.reasons)
    # --8<-- [end:probe]


async def main() -> None:
    show()
    async with bus:
        await bus.dispatch(Event("video.uploaded"))
        show()


if __name__ == "__main__":
    trio.run(main)
