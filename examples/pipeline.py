"""Back-pressure: the slowest listener sets the pace of the producer."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent


class PageFetched(Event, name="page.fetched"):
    number: int


class PageParsed(Event, name="page.parsed"):
    number: int


# --8<-- [end:setup]


# --8<-- [start:pipeline]
bus = GoEvent()
stored = 0


@bus.listener(PageFetched, mailbox=4)
async def parse(event: PageFetched) -> None:
    await bus.dispatch(PageParsed(number=event.number))  # waits while `store` is behind


@bus.listener(PageParsed, mailbox=4)
async def store(event: PageParsed) -> None:
    global stored
    await trio.sleep(0.002)  # a slow database
    stored += 1


async def crawl() -> None:
    ahead = 0
    async with bus:
        for number in range(1, 101):
            await bus.dispatch(PageFetched(number=number))
            ahead = max(ahead, number - stored)
    print(f"{stored} pages stored; the crawler was never more than {ahead} ahead")


# --8<-- [end:pipeline]


class Signup(Event, name="signup"):
    email: str


# --8<-- [start:timeout]
async def serve() -> None:
    shop = GoEvent()
    database_is_back = trio.Event()

    @shop.listener(Signup, mailbox=2)
    async def save(event: Signup) -> None:
        await database_is_back.wait()

    async with shop:
        for email in ("ann@a.org", "bob@b.org", "cy@c.org", "dee@d.org", "eve@e.org"):
            with trio.move_on_after(0.02) as timeout:
                await shop.dispatch(Signup(email=email))
            print(f"{email}: {'503, try again later' if timeout.cancelled_caught else '202'}")
        database_is_back.set()


# --8<-- [end:timeout]


async def main() -> None:
    await crawl()
    await serve()


if __name__ == "__main__":
    trio.run(main)
