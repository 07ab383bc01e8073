"""`bus.registered_listeners()`: the listeners with their effective options."""

import trio

from goevent import Config, Event, GoEvent, ListenerOptions, Retry


def plain(event: Event) -> None: ...


async def suspends(event: Event) -> None: ...


def test_each_listener_tells_its_kind() -> None:
    bus = GoEvent()
    bus.subscribe(plain, "a")
    bus.subscribe(suspends, "b", async_=False)
    bus.subscribe(suspends, "c")
    bus.subscribe(plain, "d", async_=True)
    bus.subscribe(plain, "e", "f", thread=True)
    assert [each.kind for each in bus.registered_listeners()] == [
        *("inline", "inline_async", "async_mailbox", "sync_mailbox", "threaded")
    ]
    assert bus.registered_listeners()[-1].event_names == ("e", "f")


def test_options_are_the_effective_ones() -> None:
    retry = Retry(attempts=3)
    bus = GoEvent(Config(listener=ListenerOptions(timeout=5.0, mailbox=7)))
    bus.subscribe(suspends, "a", mailbox=9, retry=retry, name="mine")
    (listener,) = bus.registered_listeners()
    assert listener.name == "mine"
    assert listener.options == ListenerOptions(timeout=5.0, mailbox=9, retry=retry, name="mine")


def test_listener_objects_are_listed_with_their_options() -> None:
    class Invoices:
        event_name = "order.paid"
        options = ListenerOptions(async_=True, concurrency=2)

        def on_event(self, event: Event) -> None: ...

    bus = GoEvent()
    bus.register_listener(Invoices)
    (listener,) = bus.registered_listeners()
    assert (listener.name, listener.options.concurrency) == ("Invoices", 2)


def test_listeners_without_options_share_their_options() -> None:
    bus = GoEvent()
    bus.subscribe(suspends, "a")
    bus.subscribe(suspends, "b")
    first, second = bus.registered_listeners()
    assert first.options is second.options


async def test_an_unregistered_listener_is_not_listed() -> None:
    async with GoEvent() as bus:
        registration = bus.subscribe(suspends, "a")
        registration.unregister()
        assert bus.registered_listeners() == ()
        await trio.lowlevel.checkpoint()


def test_config_is_the_one_that_was_given() -> None:
    config = Config(close_timeout=1.0)
    assert GoEvent(config).config is config
    assert GoEvent().config.close_timeout == Config().close_timeout
