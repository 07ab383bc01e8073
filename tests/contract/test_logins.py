"""The same login in the URL of every scheme: decoded alike, and refused alike."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import quote

import pytest
from tests.support.login_servers import amqp_login_server, kafka_login_server
from tests.support.mqtt_server import mqtt_server
from tests.support.nats_server import nats_server
from tests.support.redis_server import RedisServer

from goevent import Config, DriverConnectionError, DriverError, GoEvent
from goevent.drivers import read_driver_url

PASSWORDS = {
    "reserved": "p@ss:w/rd#1?&=[]",
    "percent": "100%25 a%zz%",
    "plus and space": "a+b c",
    "unicode": "pässwörd-密码-🔑",
    "long": "x" * 300 + "@",
}
every_password = pytest.mark.parametrize("password", PASSWORDS.values(), ids=PASSWORDS)
USER = "us@r:1/ü"


class Server:
    """A server with one user.

    Attributes:
        url: The URL with `{login}` in place of the login.
    """

    def __init__(self, url: str, seen: Callable[[], tuple[str, str]] | None = None) -> None:
        self.url = url
        self.seen = seen


def acl(user: str, password: str) -> str:
    def quoted(text: str) -> str:
        return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'

    return f"user {quoted(user)} on {quoted('>' + password)} ~* &* +@all"


@asynccontextmanager
async def redis_with(scheme: str, user: str, password: str) -> AsyncGenerator[Server]:
    server = RedisServer(("user default off", acl(user, password)))
    try:
        await server.start()
        if scheme.startswith("unix"):
            yield Server(f"{scheme}://{{login}}{server.socket_path}")
        else:
            yield Server(f"{scheme}://{{login}}{server.addr}")
    finally:
        server.remove()


@asynccontextmanager
async def nats_with(scheme: str, user: str, password: str) -> AsyncGenerator[Server]:
    async with nats_server("--user", user, "--pass", password) as server:
        yield Server(f"{scheme}://{{login}}{server.addr}")


@asynccontextmanager
async def mqtt_with(scheme: str, user: str, password: str) -> AsyncGenerator[Server]:
    async with mqtt_server(user=(user, password)) as server:
        yield Server(f"{scheme}://{{login}}127.0.0.1:{server.port}")


REAL: dict[str, Callable[[str, str, str], AbstractAsyncContextManager[Server]]] = {
    "redis": redis_with,
    "unix": redis_with,
    "redis+streams": redis_with,
    "unix+streams": redis_with,
    "nats": nats_with,
    "nats+js": nats_with,
    "mqtt": mqtt_with,
}
READS_LOGINS = {
    "amqp": amqp_login_server,
    "kafka": kafka_login_server,
    "kafka+confluent": kafka_login_server,
}
SCHEMES = [*REAL, "rediss", "rediss+streams", "amqp", "amqps", "mqtts", "kafka", "kafka+confluent"]


def login_of(user: str | None, password: str | None) -> str:
    text = "" if user is None else quote(user, safe="")
    return text + ("@" if password is None else f":{quote(password, safe='')}@")


def all_texts(error: BaseException) -> str:
    texts = traceback.format_exception(error)
    link: BaseException | None = error
    seen: set[int] = set()
    # The chains of some clients lead in a circle.
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        texts += [str(link), repr(link), repr(link.args)]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("scheme", SCHEMES)
@every_password
def test_user_and_password_are_decoded_in_one_place(scheme: str, password: str) -> None:
    for user in (USER, None):
        url = read_driver_url(f"{scheme}://{login_of(user, password)}host:1/2?group=a")
        assert (url.user, url.password) == (user, password)
        assert (url.address, url.path, url.query) == ("host:1", "/2", "group=a")
        assert read_driver_url(url.text()) == url
        assert password not in repr(url)


@pytest.mark.parametrize("scheme", REAL)
@every_password
async def test_encoded_login_opens_a_bus(scheme: str, password: str) -> None:
    user = "us@r/ü" if scheme == "mqtt" else USER
    if "long" in password and scheme == "mqtt":
        pytest.skip("mosquitto_passwd takes no such password")
    async with (
        REAL[scheme](scheme, user, password) as server,
        GoEvent(server.url.format(login=login_of(user, password))),
    ):
        pass


@pytest.mark.parametrize("scheme", READS_LOGINS)
@every_password
async def test_login_reaches_the_server_as_it_is_and_its_refusal_is_one_error(
    scheme: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with READS_LOGINS[scheme]() as (port, logins):
        url = f"{scheme}://{login_of(USER, password)}127.0.0.1:{port}"
        with pytest.raises(DriverConnectionError, match="login") as caught:
            async with GoEvent(url):
                pass
    assert set(logins) == {(USER, password)}
    assert_shows_no(password, caught.value, caplog)


WRONG = {"password": ("app", "s3cr3t-wrong"), "user": ("s3cr3t-nobody", "s3cr3t-pw"), "none": None}


@pytest.mark.parametrize("scheme", REAL)
@pytest.mark.parametrize("wrong", WRONG)
async def test_refused_login_is_one_connection_error(
    scheme: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = WRONG[wrong]
    async with REAL[scheme](scheme, "app", "s3cr3t-right") as server:
        url = server.url.format(login="" if given is None else login_of(*given))
        with pytest.raises(DriverConnectionError) as caught:
            async with GoEvent(url):
                pass
    assert_shows_no("s3cr3t", caught.value, caplog)


def assert_shows_no(secret: str, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    # Servers and clients print the password in one of these forms.
    for form in (secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1]):
        assert form not in all_texts(error)
        assert form not in caplog.text


RAW = (
    "p@ss:w/rd#1?",
    "s3cr3t/word",
    "s3cr3t?word",
    "s3cr3t#word",
    "a:s3cr3t/1",
    "s3cr3t@h/x",
    "\x00s3cr3t",
)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("raw", RAW)
def test_reserved_character_that_is_not_encoded_is_a_clear_error(scheme: str, raw: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        GoEvent(f"{scheme}://user:{raw}@127.0.0.1:1")
    assert "s3cr3t" not in all_texts(caught.value)
    assert "w/rd" not in all_texts(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_percent_escapes_that_are_no_unicode_are_refused(scheme: str) -> None:
    for login in ("%ff:s3cr3t@", "user:s3cr3t%ff@", "user:%ed%a0%80s3cr3t@"):
        with pytest.raises(ValueError, match="percent-encoded") as caught:
            GoEvent(f"{scheme}://{login}127.0.0.1:1")
        assert "s3cr3t" not in all_texts(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("address", ["host:65536", "[::1]:99999", "a:1,b:70000"])
def test_port_that_does_not_exist_is_refused(scheme: str, address: str) -> None:
    with pytest.raises(ValueError, match="has a port above 65535"):
        GoEvent(f"{scheme}://{address}?group=a")


@pytest.mark.parametrize("scheme", ["redis", "redis+streams"])
async def test_empty_password_is_a_password(scheme: str) -> None:
    server = RedisServer(("user default off", "user app on nopass ~* &* +@all"))
    try:
        await server.start()
        async with GoEvent(f"{scheme}://app:@{server.addr}"):
            pass
        async with GoEvent(f"{scheme}://app@{server.addr}"):
            pass
    finally:
        server.remove()


def test_rabbit_refuses_an_empty_password() -> None:
    with pytest.raises(ValueError, match="empty password"):
        GoEvent("amqp://app:@127.0.0.1")


async def test_user_without_a_password_is_a_token_of_nats() -> None:
    token = "t@k/en?"
    async with nats_server("--auth", token) as server:
        async with GoEvent(f"nats://{quote(token, safe='')}@{server.addr}"):
            pass
        with pytest.raises(DriverConnectionError):
            async with GoEvent(f"nats://other@{server.addr}"):
                pass


def test_url_is_not_shown_by_a_config_or_a_bus() -> None:
    url = "redis://app:s3cr3t@127.0.0.1"
    bus = GoEvent(url)
    assert "s3cr3t" not in f"{bus!r} {bus.driver!r} {Config(driver=url)!r}"
    assert issubclass(DriverConnectionError, DriverError)
