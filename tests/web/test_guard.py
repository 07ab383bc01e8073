"""The page answers only those who may see it, and refuses requests of other sites."""

import httpx
import pytest
from tests.support.web_pages import TOKEN, asking, served

from goevent import GoEvent
from goevent.web import Page

PATHS = [
    "/events",
    "/metrics",
    "/asyncapi",
    "/asyncapi.json",
    "/page.js",
    "/api/snapshot",
    "/api/errors",
    "/api/errors/1",
    "/api/dead-letters",
    "/no/such/page",
]


@pytest.mark.parametrize("path", PATHS)
async def test_without_the_token_nothing_is_told(bus: GoEvent, path: str) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "goevent-page=wrong"}):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_bearer_token_opens_the_page(bus: GoEvent) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        answer = await client.get("/api/snapshot", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.json()["state"] == "open"


async def test_the_login_gives_a_cookie_that_does_not_hold_the_token(bus: GoEvent) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        asked = await client.get("/")
        assert asked.status_code == 401
        assert "needs its token" in asked.text
        wrong = await client.post("/login", data={"token": "not the token"})
        assert wrong.status_code == 401
        assert "<p hidden" not in wrong.text
        answer = await client.post("/login", data={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert TOKEN not in cookie
        assert (await client.get("/api/snapshot")).status_code == 200


async def test_a_cookie_of_another_application_does_not_hide_that_of_the_page(
    bus: GoEvent,
) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        answer = await client.post("/login", data={"token": TOKEN})
        cookie = answer.headers["set-cookie"].partition(";")[0]
        client.cookies.clear()
        for others in ('prefs={"a": [1, 2]}; ', "a b=c; ", "=; ", "naïve=ü; "):
            headers = [(b"cookie", f"{others}{cookie}".encode())]
            assert (await client.get("/api/snapshot", headers=headers)).status_code == 200


async def test_pages_on_two_ports_do_not_log_each_other_out(bus: GoEvent) -> None:
    # Browsers do not tell the ports of a host apart.
    other = f"{TOKEN}-of-another-page"
    async with asking(Page(bus, token=TOKEN)) as client, asking(Page(bus, token=other)) as second:
        await client.post("/login", data={"token": TOKEN})
        second.cookies = client.cookies
        assert (await second.get("/api/snapshot")).status_code == 401
        await second.post("/login", data={"token": other})
        assert len(second.cookies) == 2
        for each in (client, second):
            each.cookies = second.cookies
            assert (await each.get("/api/snapshot")).status_code == 200


async def test_a_link_with_the_token_loses_it(bus: GoEvent) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        for _ in range(2):
            answer = await client.get("/", params={"token": TOKEN})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert (await client.get("/")).status_code == 200


async def test_the_cookie_is_secure_over_https(bus: GoEvent) -> None:
    async with asking(Page(bus, token=TOKEN), "https://127.0.0.1") as client:
        answer = await client.get("/", params={"token": TOKEN})
        assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", ""]
)
async def test_a_host_that_a_stranger_owns_is_refused(bus: GoEvent, host: str) -> None:
    async with asking(Page(bus)) as client:
        answer = await client.get("/api/snapshot", headers={"Host": host})
        assert answer.status_code == 421


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "bus.example:443"]
)
async def test_loopback_addresses_and_named_hosts_are_answered(bus: GoEvent, host: str) -> None:
    async with asking(Page(bus, hosts=["bus.example"])) as client:
        assert (await client.get("/api/snapshot", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_post_of_another_site_is_refused(bus: GoEvent, headers: dict[str, str]) -> None:
    async with asking(Page(bus, actions=True)) as client:
        answer = await client.post("/api/dead-letters/replay", json={"all": True}, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["error"]


async def test_a_form_of_another_site_cannot_be_an_action(bus: GoEvent) -> None:
    async with asking(Page(bus, actions=True)) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = await client.post(
                "/api/dead-letters/replay", content='{"all": true}', headers={"Content-Type": kind}
            )
            assert answer.status_code == 415


async def test_a_body_without_end_is_refused(bus: GoEvent) -> None:
    page = Page(bus, actions=True)
    async with served(page) as url, httpx.AsyncClient(base_url=url) as client:
        for path, kind in (
            ("/api/dead-letters/replay", "application/json"),
            ("/login", "application/x-www-form-urlencoded"),
        ):
            body = b"x" * 100_000
            answer = await client.post(path, content=body, headers={"Content-Type": kind})
            assert answer.status_code == 413


async def test_a_page_only_shows_unless_actions_are_allowed(bus: GoEvent) -> None:
    async with asking(Page(bus)) as client:
        for action in ("replay", "discard"):
            answer = await client.post(f"/api/dead-letters/{action}", json={"ids": ["1"]})
            assert answer.status_code == 403
            assert "actions=True" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/snapshot", "/nothing", "/login"])
async def test_every_answer_forbids_frames_scripts_of_others_and_caches(
    bus: GoEvent, path: str
) -> None:
    async with asking(Page(bus)) as client:
        for headers in ({}, {"Host": "evil.example"}):
            answer = await client.get(path, headers=headers)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "token", ["", "short", "a token with some spaces", "tökén-of-16-characters"]
)
def test_a_token_that_is_guessed_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        Page(GoEvent(), token=token)


@pytest.mark.parametrize("hosts", ["bus.example", ["http://bus.example"], ["bus.example:80"], [""]])
def test_a_host_that_is_no_name_is_refused(hosts: list[str]) -> None:
    with pytest.raises(ValueError, match="host"):
        Page(GoEvent(), hosts=hosts)


def test_a_page_shows_no_token() -> None:
    assert TOKEN not in repr(Page(GoEvent(), token=TOKEN))
