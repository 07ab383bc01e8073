"""The login of the pub/sub driver: typed errors, and no text with the password."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors
from tests.support import redis_buses
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import (
    REGISTRY,
    Bus,
    Paid,
    User,
    bus_at,
    bus_on,
    opened,
    plain_link,
    sent,
    tls_contexts,
    until,
)
from tests.support.redis_server import RedisServer, acl_user, fault_proxy, redis_server

from goevent import Config, DriverConnectionError, DriverError, GoEvent, UnknownDriverError
from goevent_redis import (
    ConnectTimeout,
    RedisConfig,
    RedisDriver,
    RedisLinkError,
    ServerRefused,
    TLSFailure,
    UnsupportedServer,
    WrongPassword,
)

SECRET = "s3cr3t-hunter2"

OURS = {__file__, redis_buses.__file__}  # the tests know it


@pytest.fixture(autouse=True)
def _logs_everything(caplog: pytest.LogCaptureFixture) -> None:  # pyright: ignore[reportUnusedFunction]
    caplog.set_level(logging.DEBUG)


def all_texts(error: BaseException) -> str:
    """Return all texts of an exception that might show a password, and those of its frames."""
    texts = traceback.format_exception(error)
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename not in OURS:
                texts += [repr(value) for value in frame.f_locals.values()]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


def assert_silent(caplog: pytest.LogCaptureFixture, *errors: BaseException, **others: Any) -> None:
    """Check that the password is in no exception, in no log, and in no repr of the objects."""
    for error in errors:
        assert SECRET not in all_texts(error)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(repr(vars(record)) for record in caplog.records)
    for name, other in others.items():
        assert SECRET not in f"{other!r} {other}", name


async def refused(bus: Bus, caplog: pytest.LogCaptureFixture) -> DriverError:
    """Open a bus whose login is refused; return the error."""
    bus.seen(Paid)
    with pytest.raises(DriverError) as caught:
        async with bus:
            raise AssertionError("it was let in")
    assert_silent(caplog, caught.value, bus=bus, driver=bus.driver, config=bus.driver.config)
    return caught.value


# -- the server refuses


async def test_a_wrong_password_is_a_typed_error(caplog: pytest.LogCaptureFixture) -> None:
    rules = acl_user("events", "right", "+@all", "&*")
    async with redis_server(rules) as server:
        for bus in (
            bus_on(server, username="events", password=SECRET),
            Bus(RedisDriver.from_url(f"redis://events:{SECRET}@{server.addr}/0")),
            Bus(RedisDriver(RedisConfig(url=f"unix://events:{SECRET}@{server.socket_path}"))),
        ):
            error = await refused(bus, caplog)
            assert isinstance(error, DriverConnectionError)
            assert isinstance(error.__cause__, WrongPassword)
            assert bus.driver.config.where() in str(error)


async def test_a_required_password_that_is_not_given_is_a_typed_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server(f"requirepass {SECRET}") as server:
        error = await refused(bus_on(server), caplog)
        assert isinstance(error.__cause__, WrongPassword)
        async with bus_on(server, password=SECRET) as bus:
            assert SECRET not in repr(bus.driver.config)


@pytest.mark.parametrize(
    "rules",
    [
        ("+@all", "resetchannels"),
        ("+@all", "-subscribe", "&*"),
        ("+@all", "&goevent:x"),
        ("+@all", "resetchannels", "&goevent:order.paid"),  # without the channel of the marks
    ],
)
async def test_a_missing_right_is_a_typed_error(
    rules: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server(acl_user("events", SECRET, *rules)) as server:
        error = await refused(bus_on(server, username="events", password=SECRET), caplog)
        assert isinstance(error.__cause__, redis_errors.NoPermissionError)
        assert "the user needs" in str(error)


async def test_a_missing_right_to_publish_is_on_the_handle() -> None:
    rules = acl_user("events", "pw", "+@all", "-publish", "&*")
    async with (
        redis_server(rules) as server,
        bus_on(server, username="events", password="pw") as bus,
    ):
        handle = await sent(bus, Paid())
        (error,) = handle.errors
        assert isinstance(error.__cause__, DriverError)
        assert "the user needs" in str(error)
        assert handle.receivers is None


async def test_a_missing_right_to_a_pattern_is_on_ready_and_on_the_supervisor() -> None:
    rules = acl_user("events", "pw", "+@all", "resetchannels", "&goevent:*")
    async with (
        redis_server(rules) as server,
        bus_on(server, username="events", password="pw") as bus,
    ):
        refusal = bus.subscribe(lambda event: None, "user.*")
        with pytest.raises(DriverError, match="a right of its own"):
            await refusal.ready()
        await until(lambda: bus.says("a right of its own"))
        assert (await sent(bus, Paid())).receivers == 0  # the bus still works


async def test_the_rights_that_the_docs_name_are_enough() -> None:
    page = (Path(__file__).parents[3] / "docs/brokers/redis.md").read_text(encoding="utf-8")
    (rules,) = [line for line in page.splitlines() if line.startswith("user shop on >password ")]
    async with redis_server(rules) as server:
        one, two = (bus_on(server, username="shop", password="password") for _ in "ab")
        exact, some, every = two.seen(User), two.seen("order.*"), two.seen("**")
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await sent(one, User(n=2))
            await until(lambda: exact and some and len(every) == 2)
            await one.driver.client.execute_command("PING")
            two.unregister_listeners_for_event(User)
            two.unregister_listeners_for_event("order.*")
            with trio.fail_after(HANG_SECONDS):
                while (await sent(one, User())).receivers != 1:
                    pass
        assert not one.told
        assert not two.told


# -- the server is not what it should be


async def test_a_self_signed_certificate_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    context, _ = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        url = f"rediss://user:{SECRET}@localhost:{proxy.port}"
        error = await refused(Bus(RedisDriver.from_url(url)), caplog)
        assert isinstance(error.__cause__, TLSFailure)
        assert "certificate" in str(error)


async def test_a_certificate_for_another_host_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    context, client_context = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        config = RedisConfig(url=f"rediss://u:{SECRET}@{proxy.addr}", tls=client_context)
        error = await refused(Bus(RedisDriver(config)), caplog)
        assert isinstance(error.__cause__, TLSFailure)
        assert "certificate" in str(error)


async def test_a_plain_server_behind_rediss_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        url = f"rediss://user:{SECRET}@{server.addr}"
        config = RedisConfig(url=url, dial_timeout=1.0)
        with trio.fail_after(HANG_SECONDS):
            error = await refused(Bus(RedisDriver(config)), caplog)
        assert isinstance(error.__cause__, TLSFailure)
        assert "without TLS" in str(error)


async def test_a_server_with_tls_behind_redis_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    context, _ = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        with trio.fail_after(HANG_SECONDS):
            error = await refused(bus_at(proxy.addr, username="u", password=SECRET), caplog)
        assert isinstance(error.__cause__, RedisLinkError)


async def test_an_address_without_a_server_is_a_typed_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server() as server:
        server.kill()
        error = await refused(bus_on(server, password=SECRET), caplog)
        assert isinstance(error, DriverConnectionError)
        # A cause would make the traceback longer, and the text has the reason.
        assert error.__cause__ is None
        assert f"cannot connect to {server.addr}" in str(error)
        assert "refused" in str(error)


async def test_a_server_that_never_answers_is_a_typed_error_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server() as server:
        server.freeze()
        with trio.fail_after(PROMPT_SECONDS):
            error = await refused(bus_on(server, password=SECRET, dial_timeout=0.5), caplog)
        server.thaw()
        assert isinstance(error.__cause__, ConnectTimeout)


OLD = b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `%s`, \r\n"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (OLD % SECRET.encode(), UnsupportedServer),
        (b"-WRONGPASS invalid: " + SECRET.encode() + b"\r\n", WrongPassword),
        (b"-NOPERM " + SECRET.encode() + b"\r\n", RedisLinkError),
        (SECRET.encode() * 10 + b"\r\n", UnsupportedServer),
        (b"", ServerRefused),
    ],
)
async def test_a_server_that_quotes_the_password_is_not_quoted(
    reply: bytes, kind: type[RedisLinkError], caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_server(reply) as addr:
        error = await refused(bus_at(addr, username="u", password=SECRET), caplog)
        assert isinstance(error.__cause__, kind)


@asynccontextmanager
async def fake_server(reply: bytes) -> AsyncGenerator[str]:
    """Run a server that sends the same reply to every client, and closes the connection."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        if reply:
            await stream.send_all(reply)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


# -- the password in a whole life of a bus


async def change_the_password(server: RedisServer) -> None:
    async with plain_link(server) as link:
        await link.execute("ACL", "SETUSER", "events", "resetpass", ">new")
        await link.execute("CLIENT", "KILL", "USER", "events")


async def crash(server: RedisServer) -> None:
    server.kill()


@pytest.mark.parametrize("fault", [change_the_password, crash])
@pytest.mark.usefixtures("brief_downtime")
async def test_the_password_is_never_shown_while_a_bus_runs(
    fault: Callable[[RedisServer], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a handler of errors they are logged, and the logs do not show it either."""
    async with redis_server(acl_user("events", SECRET, "+@all", "~*", "&*")) as server:
        driver = RedisDriver(f"redis://events:{SECRET}@{server.addr}")
        config = Config(driver=driver, registry=REGISTRY)
        bus = GoEvent(config)
        async with bus:
            client = driver.client
            assert await client.execute_command("ACL", "WHOAMI") == b"events"
            shown = {
                "bus": bus,
                "config": config,
                "driver": driver,
                "client": client,
                "settings": driver.config,
                "snapshot": bus.snapshot(),
            }
            assert_silent(caplog, **shown)
            await fault(server)
            await until(lambda: bus.error_count)
            handle = await sent(bus, Paid(n=1))
            (failure,) = handle.errors
            assert isinstance(failure.__cause__, DriverConnectionError)
            with pytest.raises(redis_errors.ConnectionError) as caught:
                await client.get("key")
            errors = [*bus.errors, failure, caught.value]
            assert_silent(caplog, *errors, handle=handle, **shown)
            assert SECRET not in "".join(error.details for error in bus.errors)
        unhandled = GoEvent(Config(driver=driver, registry=REGISTRY))
        with pytest.raises(DriverError) as refusal:
            async with unhandled:
                pass
        assert_silent(caplog, refusal.value, unhandled=unhandled)


@pytest.mark.usefixtures("brief_downtime")
async def test_unhandled_errors_are_logged_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server(f"requirepass {SECRET}") as server:
        driver = RedisDriver(RedisConfig(addr=server.addr, password=SECRET))
        bus = GoEvent(Config(driver=driver, registry=REGISTRY))
        async with bus:
            server.kill()
            await sent(bus, Paid(n=1))
        assert "nobody handled" in caplog.text
        assert_silent(caplog)


async def test_a_password_that_is_changed_while_connected_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = acl_user("events", SECRET, "+@all", "&*")
    async with redis_server(rules) as server, fault_proxy(server.port) as proxy:
        bus = Bus(RedisDriver(RedisConfig(addr=proxy.addr, username="events", password=SECRET)))
        async with opened(bus), plain_link(server) as link:
            await link.execute("ACL", "SETUSER", "events", "resetpass", ">new")
            proxy.reset()
            await until(lambda: bus.says("refuses the user name"))
            await link.execute("ACL", "SETUSER", "events", f">{SECRET}")
            await until(lambda: bus.says("connected to Redis again"))
        assert bus.says("refuses the user name") == 1
        assert_silent(caplog, *bus.told)
        assert SECRET not in "".join(error.details for error in bus.told)


# -- URLs that cannot be read


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}@host:port",
        f"redis://u:{SECRET}@host:99999",
        f"redis://u:{SECRET}@host/notanumber",
        f"redis://u:{SECRET}@host?nonsense={SECRET}",
        f"redis://u:{SECRET}/#@host",
        f"redis://u:{SECRET}@[::1",
        f"rediss://u:{SECRET}@host?ssl_magic={SECRET}",
        f"rediss://u:{SECRET}@host?ssl_ca_certs=/no/such/file",
        f"unix://u:{SECRET}@",
        f"rediz://u:{SECRET}@host",
        f"http://:{SECRET}@h",
    ],
)
def test_a_url_that_cannot_be_read_does_not_show_its_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    makers: list[Callable[[], object]] = [
        lambda: GoEvent(url),
        lambda: GoEvent(Config(driver=url)),
        lambda: RedisDriver(url),
        lambda: RedisDriver.from_url(url),
        lambda: RedisConfig(url=url),
    ]
    for make in makers:
        with pytest.raises((ValueError, OSError, UnknownDriverError)) as caught:
            make()
        text = "".join(traceback.format_exception(caught.value))
        text += repr(caught.value) + repr(vars(caught.value))
        assert SECRET not in text
        assert_silent(caplog)
    gc.collect()  # also warnings of objects that are collected
