"""The server of the page binds addresses that only the right callers reach."""

import errno
import socket
from contextlib import AsyncExitStack

import httpx
import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import free_port
from tests.support.web_pages import TOKEN, served

from goevent import GoEvent, GoEventError
from goevent.web import AddressError, Page, serve_http


async def test_port_zero_reports_the_real_port(bus: GoEvent) -> None:
    async with served(bus) as url, httpx.AsyncClient() as client:
        assert not url.endswith(":0/")
        assert (await client.get(f"{url}api/snapshot")).json()["state"] == "open"


async def test_the_page_is_served_over_ipv6(bus: GoEvent) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with served(bus, "[::1]:0") as url, httpx.AsyncClient() as client:
        assert url.startswith("http://[::1]:")
        assert (await client.get(f"{url}api/snapshot")).status_code == 200


async def test_a_port_that_is_taken_is_one_clear_error(bus: GoEvent) -> None:
    async with served(bus) as url:
        address = url.removeprefix("http://").rstrip("/")
        with pytest.raises(AddressError, match=f"cannot serve the page at {address}") as caught:
            await serve_http(bus, address)
    assert caught.value.errno == errno.EADDRINUSE
    assert isinstance(caught.value, GoEventError)
    assert isinstance(caught.value, OSError)


async def test_a_host_of_another_machine_is_one_clear_error(bus: GoEvent) -> None:
    with pytest.raises(AddressError, match="cannot serve the page at 192"):
        await serve_http(Page(bus, token=TOKEN), "192.0.2.1:8080")
    with pytest.raises(AddressError, match="no host"):
        await serve_http(Page(bus, token=TOKEN), "no-such-host.invalid:8080")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "bus.example"])
async def test_other_addresses_than_loopback_need_a_token(bus: GoEvent, host: str) -> None:
    with pytest.raises(ValueError, match="needs a token"):
        await serve_http(bus, f"{host}:8080")


async def test_with_a_token_any_address_is_served(bus: GoEvent) -> None:
    async with served(Page(bus, token=TOKEN), "0.0.0.0:0") as url, httpx.AsyncClient() as client:
        address = url.replace("0.0.0.0", "127.0.0.1")
        assert (await client.get(f"{address}api/snapshot")).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.get(f"{address}api/snapshot", headers=headers)).status_code == 200


async def test_the_environment_gives_a_bus_its_token_and_hosts(
    bus: GoEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOEVENT_WEB_TOKEN", TOKEN)
    monkeypatch.setenv("GOEVENT_WEB_HOSTS", "bus.example, other.example")
    async with served(bus) as url, httpx.AsyncClient(base_url=url) as client:
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "other.example"}
        assert (await client.get("api/snapshot")).status_code == 401
        assert (await client.get("api/snapshot", headers=headers)).status_code == 200


@pytest.mark.parametrize(("value", "status"), [("1", 404), ("0", 403), ("", 403)])
async def test_the_environment_allows_actions(
    bus: GoEvent, monkeypatch: pytest.MonkeyPatch, value: str, status: int
) -> None:
    monkeypatch.setenv("GOEVENT_WEB_ACTIONS", value)
    async with served(bus) as url, httpx.AsyncClient(base_url=url) as client:
        # The driver of this bus keeps no dead letters.
        answer = await client.post("api/dead-letters/replay", json={"all": True})
        assert answer.status_code == status


async def test_an_unclear_permission_for_actions_is_refused(
    bus: GoEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOEVENT_WEB_ACTIONS", "false")
    with pytest.raises(ValueError, match="GOEVENT_WEB_ACTIONS is 1 or 0"):
        await serve_http(bus, "127.0.0.1:0")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "8080",
        ":8080",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "::1:8080",
        "a:70000",
        "a:-1",
    ],
)
async def test_a_malformed_address_is_refused(bus: GoEvent, address: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|a port is"):
        await serve_http(Page(bus, token=TOKEN), address)


async def test_the_port_is_free_after_the_end(bus: GoEvent) -> None:
    address = f"127.0.0.1:{free_port()}"
    for _ in range(3):
        async with served(bus, address) as url, httpx.AsyncClient() as client:
            assert (await client.get(f"{url}api/snapshot")).status_code == 200


async def test_the_end_waits_for_no_browser(bus: GoEvent) -> None:
    async with httpx.AsyncClient() as client, AsyncExitStack() as stack:
        with trio.fail_after(HANG_SECONDS):
            async with served(bus) as url:
                stream = client.stream("GET", f"{url}events", timeout=None)
                assert (await stack.enter_async_context(stream)).status_code == 200
