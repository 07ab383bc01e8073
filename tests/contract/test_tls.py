"""TLS by URL: the same options and the same errors for every scheme."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from tests.contract.test_logins import acl, assert_shows_no, login_of
from tests.support.brokers import missing
from tests.support.kafka_mock import kafka_mock
from tests.support.login_servers import kafka_login_server, serving
from tests.support.mqtt_server import mqtt_server
from tests.support.nats_server import nats_server
from tests.support.redis_server import RedisServer
from tests.support.tls_proxy import Certificates, advertised, tls_proxy

from goevent import DriverConnectionError, GoEvent

SECRET = "s3cr3t-right"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return the files of one authority."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


Opened = AbstractAsyncContextManager[str]
Files = tuple[str, str]


@asynccontextmanager
async def redis_with(
    scheme: str, certificates: Certificates, files: Files, *, demands_client: bool
) -> AsyncGenerator[str]:
    server = RedisServer(("user default off", acl("app", SECRET)))
    context = certificates.context(files, demands_client=demands_client)
    try:
        await server.start()
        async with tls_proxy(int(server.addr.rpartition(":")[2]), context) as port:
            yield f"{scheme}://{{login}}127.0.0.1:{port}"
    finally:
        server.remove()


@asynccontextmanager
async def nats_with(
    scheme: str, certificates: Certificates, files: Files, *, demands_client: bool
) -> AsyncGenerator[str]:
    verify = "verify: true" if demands_client else ""
    config = f"""
        tls {{ cert_file: "{files[0]}", key_file: "{files[1]}"
               ca_file: "{certificates.cafile}", {verify} }}
        authorization {{ user: app, password: "{SECRET}" }}
    """
    async with nats_server(config=config) as server:
        yield f"{scheme}://{{login}}{server.addr}"


@asynccontextmanager
async def mqtt_with(
    scheme: str, certificates: Certificates, files: Files, *, demands_client: bool
) -> AsyncGenerator[str]:
    context = certificates.context(files, demands_client=demands_client)
    async with (
        mqtt_server(user=("app", SECRET)) as server,
        tls_proxy(server.port, context) as port,
    ):
        yield f"{scheme}://{{login}}127.0.0.1:{port}"


@asynccontextmanager
async def amqp_with(
    scheme: str, certificates: Certificates, files: Files, *, demands_client: bool
) -> AsyncGenerator[str]:
    try:
        (await trio.open_tcp_stream("127.0.0.1", 5672)).socket.close()
    except OSError:
        missing("no RabbitMQ listens on its port")
    context = certificates.context(files, demands_client=demands_client)
    async with tls_proxy(5672, context) as port:
        yield f"{scheme}://{{login}}127.0.0.1:{port}"


@asynccontextmanager
async def kafka_with(
    scheme: str, certificates: Certificates, files: Files, *, demands_client: bool
) -> AsyncGenerator[str]:
    context = certificates.context(files, demands_client=demands_client)
    async with kafka_mock() as mock:
        inner = int(mock.addr.rpartition(":")[2])
        async with tls_proxy(inner, context, rewrites=advertised(inner)) as port:
            yield f"{scheme}://{{login}}127.0.0.1:{port}"


SERVERS: dict[str, Callable[..., Opened]] = {
    "rediss": redis_with,
    "rediss+streams": redis_with,
    "nats+tls": nats_with,
    "nats+js+tls": nats_with,
    "amqps": amqp_with,
    "mqtts": mqtt_with,
    "kafka+tls": kafka_with,
    "kafka+confluent+tls": kafka_with,
}
LOGINS = dict.fromkeys(SERVERS, ("app", SECRET)) | {
    "amqps": ("guest", "guest"),
    # librdkafka's mock knows no logins.
    "kafka+tls": None,
    "kafka+confluent+tls": None,
}
PLAIN = {
    "rediss": "redis",
    "rediss+streams": "redis+streams",
    "nats+tls": "nats",
    "nats+js+tls": "nats+js",
    "amqps": "amqp",
    "mqtts": "mqtt",
    "kafka+tls": "kafka",
    "kafka+confluent+tls": "kafka+confluent",
}
every_scheme = pytest.mark.parametrize("scheme", SERVERS)


def url_of(url: str, scheme: str, **options: str) -> str:
    login = LOGINS[scheme]
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    return url.format(login="" if login is None else login_of(*login)) + f"?{query}"


async def refusal_of(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return the text of the error with which a bus does not open."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DriverConnectionError) as caught:
        async with GoEvent(url):
            pass
    assert_shows_no(SECRET, caught.value, caplog)
    return str(caught.value)


@every_scheme
async def test_server_with_a_certificate_of_the_own_authority(
    scheme: str, certificates: Certificates
) -> None:
    async with (
        SERVERS[scheme](scheme, certificates, certificates.server, demands_client=False) as url,
        GoEvent(url_of(url, scheme, cafile=certificates.cafile)),
    ):
        pass


@every_scheme
async def test_server_with_a_certificate_of_another_authority(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with SERVERS[scheme](
        scheme, certificates, certificates.server, demands_client=False
    ) as url:
        for options in ({"cafile": certificates.other_cafile}, {}):
            text = await refusal_of(url_of(url, scheme, **options), caplog)
            assert "is not signed by an authority that is known here" in text
            assert "cafile" in text


@every_scheme
async def test_server_with_a_certificate_for_another_host(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates.other_host
    async with SERVERS[scheme](scheme, certificates, files, demands_client=False) as url:
        text = await refusal_of(url_of(url, scheme, cafile=certificates.cafile), caplog)
        assert "certificate is for another host" in text
        assert "check_hostname=0" in text
        async with GoEvent(url_of(url, scheme, cafile=certificates.cafile, check_hostname="0")):
            pass


@every_scheme
async def test_server_with_an_expired_certificate(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates.expired
    async with SERVERS[scheme](scheme, certificates, files, demands_client=False) as url:
        text = await refusal_of(url_of(url, scheme, cafile=certificates.cafile), caplog)
        assert "certificate has expired" in text


@every_scheme
async def test_server_that_demands_a_certificate_of_the_client(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates.server
    async with SERVERS[scheme](scheme, certificates, files, demands_client=True) as url:
        text = await refusal_of(url_of(url, scheme, cafile=certificates.cafile), caplog)
        assert "certfile and keyfile" in text
        certificate, key = certificates.client
        options = {"cafile": certificates.cafile, "certfile": certificate, "keyfile": key}
        async with GoEvent(url_of(url, scheme, **options)):
            pass


@every_scheme
async def test_wrong_password_over_tls(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = login_of("app", "s3cr3t-wrong")
    caplog.set_level(logging.DEBUG)
    async with connected(scheme, certificates) as url:
        with pytest.raises(DriverConnectionError, match=r"login|password") as caught:
            async with GoEvent(f"{url.format(login=wrong)}?cafile={certificates.cafile}"):
                pass
    assert_shows_no("s3cr3t-wrong", caught.value, caplog)


@asynccontextmanager
async def connected(scheme: str, certificates: Certificates) -> AsyncGenerator[str]:
    """Yield the URL of a server that checks logins."""
    files = certificates.server
    if not scheme.startswith("kafka"):
        async with SERVERS[scheme](scheme, certificates, files, demands_client=False) as url:
            yield url
        return
    context = certificates.context(files, demands_client=False)
    async with kafka_login_server() as (inner, _), tls_proxy(inner, context) as port:
        yield f"{scheme}://{{login}}127.0.0.1:{port}"


@every_scheme
async def test_nothing_is_sent_to_a_server_without_tls(
    scheme: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    received = bytearray()

    async def serve(stream: trio.SocketStream) -> None:
        if scheme.startswith("nats"):
            await stream.send_all(b'INFO {"server_id":"x","max_payload":1048576}\r\n')
        while data := await stream.receive_some(1000):
            received.extend(data)
            await stream.send_all(b"-ERR what is that?\r\n")

    async with serving(serve) as port:
        login = login_of("app", SECRET)
        text = await refusal_of(
            f"{scheme}://{login}127.0.0.1:{port}?cafile={certificates.cafile}", caplog
        )
        assert "TLS" in text
    assert SECRET.encode() not in received


@every_scheme
@pytest.mark.parametrize("option", ["cafile", "certfile"])
def test_missing_file_is_named(scheme: str, option: str, tmp_path: Path) -> None:
    absent, empty = tmp_path / "absent.pem", tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ValueError, match=f"{option}.*absent.pem"):
        GoEvent(f"{scheme}://app:{SECRET}@127.0.0.1:1?{option}={absent}")
    with pytest.raises(ValueError, match=f"{option} .*cannot be used"):
        GoEvent(f"{scheme}://app:{SECRET}@127.0.0.1:1?{option}={empty}")


@every_scheme
def test_key_needs_its_certificate(scheme: str, certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="keyfile needs the option certfile"):
        GoEvent(f"{scheme}://127.0.0.1:1?keyfile={certificates.client[1]}")


@every_scheme
def test_certificate_with_the_key_of_another(scheme: str, certificates: Certificates) -> None:
    files = f"certfile={certificates.client[0]}&keyfile={certificates.server[1]}"
    with pytest.raises(ValueError, match="certfile or keyfile cannot be used"):
        GoEvent(f"{scheme}://127.0.0.1:1?{files}")


@every_scheme
def test_options_need_a_scheme_with_tls(scheme: str, certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="TLS"):
        GoEvent(f"{PLAIN[scheme]}://127.0.0.1:1?cafile={certificates.cafile}")


@every_scheme
def test_host_name_option_is_a_flag(scheme: str) -> None:
    with pytest.raises(ValueError, match="check_hostname is 0 or 1"):
        GoEvent(f"{scheme}://127.0.0.1:1?check_hostname=maybe")
