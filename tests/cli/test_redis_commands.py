"""The commands that ask a broker, on a Redis server: publish, tail, lag, dead, replay and check."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from tests.support.command import run_goevent, started_goevent
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import RedisServer, acl_user, redis_server

from goevent import Event, EventError, GoEvent, current_delivery
from goevent_redis import RedisStreamsDriver

NAME = "order.paid"


@pytest.fixture
async def server() -> AsyncGenerator[RedisServer]:
    async with redis_server("appendonly yes") as running:
        yield running


def url_of(server: RedisServer) -> str:
    return f"redis+streams://{server.addr}"


async def until_lines(process: trio.Process, count: int) -> list[str]:
    """Return the first lines that a process prints."""
    assert process.stdout is not None
    text = b""
    with trio.fail_after(HANG_SECONDS):
        while text.count(b"\n") < count:
            data = await process.stdout.receive_some()
            if not data:
                raise AssertionError(f"it ended with {text!r}")
            text += data
    return text.decode().splitlines()[:count]


async def until_tailed(url: str, count: int, *arguments: str) -> list[str]:
    """Return the lines that `goevent tail` shows of events that are published meanwhile."""
    lines: list[str] = []
    tail = started_goevent("tail", url, "order.*", *arguments)
    async with tail as process, GoEvent(url) as bus, trio.open_nursery() as nursery:

        async def publish() -> None:
            # The tail begins at an unknown moment, so events come until it has seen enough.
            for n in range(1_000_000):
                handle = await bus.dispatch(Event(NAME, {"n": n, "text": "\x1b[31m"}))
                await handle.wait()
                await trio.sleep(0.05)

        nursery.start_soon(publish)
        lines += await until_lines(process, count)
        nursery.cancel_scope.cancel()
    return lines


async def test_a_published_event_arrives_with_its_headers(server: RedisServer) -> None:
    url = f"{url_of(server)}?group=billing"
    got: list[tuple[dict[str, object], dict[str, str]]] = []
    arrived = trio.Event()
    async with GoEvent(url) as bus:

        @bus.listener(NAME)
        async def note(event: Event) -> None:
            got.append((event.payload(), dict(current_delivery().headers)))
            arrived.set()

        await bus.ready()
        result = await run_goevent(
            *("publish", url_of(server), NAME, '{"n": 1}', "--header", "tenant=acme"),
            *("--key", "7", "--wait"),
            fresh=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.count("-") == 1  # the id of the entry
        with trio.fail_after(HANG_SECONDS):
            await arrived.wait()
    assert got == [({"n": 1}, {"tenant": "acme"})]


async def test_lines_are_published_in_order_up_to_the_one_that_is_refused(
    server: RedisServer,
) -> None:
    lines = '{"n": 0}\n\n{"n": 1}\nnonsense\n{"n": 2}\n'
    result = await run_goevent("publish", url_of(server), NAME, "-", "--lines", stdin=lines)
    assert (result.returncode, result.stdout) == (2, "")
    assert "line 4: this is no JSON" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    whole = await run_goevent("publish", url_of(server), NAME, "-", "--lines", stdin='{"n": 2}\n')
    assert whole.stdout == f"1 event(s) of {NAME} published\n"
    got: list[object] = []
    async with GoEvent(f"{url_of(server)}?group=g") as bus, trio.open_nursery() as nursery:

        @bus.listener(NAME)
        def note(event: Event) -> None:
            got.append(event.payload()["n"])
            if len(got) == 3:
                nursery.cancel_scope.cancel()

        await bus.ready()
        with trio.fail_after(HANG_SECONDS):
            await trio.sleep_forever()
    assert got == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((NAME, '{"n": '), "this is no JSON"),
        ((NAME, "[1]"), "the payload of an event is a JSON object"),
        (("order paid", "{}"), "character ' ' at position 5 is not allowed"),
        ((NAME, "{}", "--header", "nonsense"), "a header is written name=value"),
        ((NAME, json.dumps({"text": "x" * (2 << 20)})), "bytes are above"),
    ],
)
async def test_an_event_that_cannot_be_published_is_wrong_use(
    server: RedisServer, arguments: tuple[str, ...], line: str
) -> None:
    name, data, *options = arguments
    result = await run_goevent("publish", url_of(server), name, "-", *options, stdin=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_an_event_is_checked_by_the_types_of_the_program(
    server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        "from goevent import Event, GoEvent\n"
        "class Paid(Event, name='order.paid', key='n'):\n    n: int\n"
        f"bus = GoEvent('{url_of(server)}')\n"
    )

    async def publish(*arguments: str) -> tuple[int, str]:
        result = await run_goevent("publish", "shop:bus", *arguments, cwd=tmp_path)
        return result.returncode, result.stderr

    assert await publish(NAME, '{"n": 1}') == (0, "")
    code, line = await publish(NAME, '{"n": "x"}')
    assert (code, "Expected `int`, got `str`" in line) == (2, True)
    code, line = await publish("order.piad", "{}")
    assert (code, "did you mean 'order.paid'?" in line) == (2, True)
    assert await publish("order.piad", "{}", "--ad-hoc") == (0, "")
    code, line = await publish(NAME, '{"n": 1}', "--key", "x")
    assert (code, "the key of order.paid is its field 'n'" in line) == (2, True)


async def test_tail_shows_events_and_no_control_characters(server: RedisServer) -> None:
    lines = await until_tailed(url_of(server), 2)
    for line in lines:
        time, name, id_, payload = line.split(" ", 3)
        assert time.endswith("Z")
        assert name == NAME
        assert "-" in id_
        assert json.loads(payload)["text"] == "\x1b[31m"
        assert line.isprintable()


async def test_tail_prints_one_json_object_for_each_event(server: RedisServer) -> None:
    (line,) = await until_tailed(url_of(server), 1, "--json")
    found = json.loads(line)
    assert found.keys() == {"time", "event", "id", "headers", "payload", "missed"}
    assert (found["event"], found["payload"]["text"]) == (NAME, "\x1b[31m")


async def test_tail_takes_no_event_from_a_group(server: RedisServer) -> None:
    await until_tailed(url_of(server), 1)
    result = await run_goevent("lag", url_of(server), "--group", "billing", "--json")
    assert json.loads(result.stdout)["backlogs"] == []


async def test_tail_ends_quietly_when_its_reader_goes_away(server: RedisServer) -> None:
    async with started_goevent("tail", url_of(server), "order.*") as process:
        async with GoEvent(url_of(server)) as bus, trio.open_nursery() as nursery:

            async def publish() -> None:
                while True:
                    await (await bus.dispatch(Event(NAME, {"n": 1}))).wait()
                    await trio.sleep(0.02)

            nursery.start_soon(publish)
            assert process.stdout is not None
            await process.stdout.receive_some()
            await process.stdout.aclose()
            with trio.fail_after(HANG_SECONDS):
                await process.wait()
            nursery.cancel_scope.cancel()
        assert process.stderr is not None
        assert await process.stderr.receive_some() == b""
        assert process.returncode == 0


async def test_tail_ends_after_its_time(server: RedisServer) -> None:
    result = await run_goevent("tail", url_of(server), "order.*", "--timeout", "0.1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


async def test_lag_tells_the_backlog_and_fails_over_a_limit(server: RedisServer) -> None:
    url = f"{url_of(server)}?group=billing"
    async with GoEvent(url) as bus:
        bus.subscribe(print, "other.name")
        registration = bus.subscribe(print, NAME, async_=True)
        await bus.ready()
        registration.unregister()
    for n in range(3):
        await run_goevent("publish", url_of(server), NAME, f'{{"n": {n}}}')
    result = await run_goevent("lag", url_of(server), "--group", "billing", "--json", fresh=True)
    assert result.returncode == 0
    waiting = {each["event_name"]: each["lag"] for each in json.loads(result.stdout)["backlogs"]}
    assert waiting[NAME] == 3
    late = await run_goevent("lag", url, "--fail-over", "0.001")
    assert late.returncode == 1
    assert f"{NAME}: the oldest event is " in late.stderr
    assert NAME in late.stdout
    early = await run_goevent("lag", url, "--fail-over", "100000")
    assert (early.returncode, early.stderr) == (0, "")
    unknown = await run_goevent("lag", url_of(server), "--group", "nobody", "--fail-over", "5")
    assert unknown.returncode == 1


async def test_dead_letters_are_listed_shown_replayed_and_discarded(server: RedisServer) -> None:
    url = f"{url_of(server)}?group=billing&max_deliveries=1"
    failed = trio.Event()
    async with GoEvent(url) as bus:

        @bus.on_error
        def note(error: EventError) -> None:
            if "DeadLettered" in error.reason:
                failed.set()

        @bus.listener(NAME)
        async def fail(event: Event) -> None:
            raise ValueError("no \x1b[31m address")

        for n in range(2):
            await (await bus.dispatch(Event(NAME, {"n": n}))).wait()
        assert isinstance(bus.driver, RedisStreamsDriver)
        with trio.fail_after(HANG_SECONDS):
            await failed.wait()
            while len(await bus.driver.dead_letters.list()) < 2:
                await trio.sleep(0.02)

    async def ask(action: str, *arguments: str, fresh: bool = False) -> tuple[int, str, str]:
        result = await run_goevent("dead", action, url, *arguments, fresh=fresh)
        return result.returncode, result.stdout, result.stderr

    code, text, _ = await ask("list", "--json", fresh=True)
    letters = json.loads(text)["letters"]
    assert code == 0
    assert [each["payload"]["n"] for each in letters] == [0, 1]
    code, text, _ = await ask("list")
    assert "no \\x1b[31m address" in text
    assert "\x1b" not in text
    code, text, _ = await ask("show", letters[0]["id"])
    assert code == 0
    assert "ValueError" in text
    assert 'payload:    {"n":0' in text
    code, _, line = await ask("show", "1-1")
    assert (code, line) == (1, "goevent: there is no dead letter of this id\n")
    code, text, _ = await ask("replay", letters[0]["id"], fresh=True)
    assert (code, text) == (0, "1 dead letter(s) replayed\n")
    code, text, line = await ask("replay", letters[0]["id"])
    assert (code, text) == (1, "0 dead letter(s) replayed\n")
    code, text, line = await ask("discard", "--all")
    assert (code, text) == (2, "")
    assert "confirm it by --yes" in line
    code, text, _ = await ask("discard", "--all", "--yes", "--json")
    assert (code, json.loads(text)) == (0, {"discarded": 1})
    code, _, line = await ask("list")
    assert (code, line) == (0, "there are no dead letters\n")
    code, _, line = await ask("replay")
    assert (code, "give the ids of dead letters, or --all" in line) == (2, True)


async def test_replay_delivers_stored_events_once_more(server: RedisServer) -> None:
    url = f"{url_of(server)}?group=billing"
    got: list[object] = []
    twice = trio.Event()
    async with GoEvent(url) as bus:

        @bus.listener(NAME)
        def note(event: Event) -> None:
            got.append(event.payload()["n"])
            if len(got) == 4:
                twice.set()

        await bus.ready()
        for n in range(2):
            await (await bus.dispatch(Event(NAME, {"n": n}))).wait()
        with trio.fail_after(HANG_SECONDS):
            while len(got) < 2:
                await trio.sleep(0.02)
            start = "2020-01-01T00:00Z"
            result = await run_goevent("replay", url, NAME, "--start", start, fresh=True)
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout == f"2 event(s) of {NAME} go to billing once more\n"
            await twice.wait()
    assert sorted(map(str, got)) == ["0", "0", "1", "1"]


async def test_a_time_without_a_zone_is_wrong_use(server: RedisServer) -> None:
    url = f"{url_of(server)}?group=billing"
    result = await run_goevent("replay", url, NAME, "--start", "2020-01-01")
    assert result.returncode == 2
    assert "has no time zone" in result.stderr


async def test_check_is_silent_about_a_good_server() -> None:
    async with redis_server("appendonly yes") as server:
        good = await run_goevent("check", url_of(server), fresh=True)
        assert (good.returncode, good.stdout) == (0, f"{url_of(server)}: no findings\n")
    down = await run_goevent("check", url_of(server))
    assert down.returncode == 1
    assert "cannot connect" in down.stdout


async def test_check_reports_a_wrong_password_and_missing_rights(tmp_path: Path) -> None:
    rights = acl_user("poor", "hunter2", "~*", "&*", "+@all", "-xadd")
    async with redis_server("appendonly yes", rights) as server:
        url = f"redis+streams://poor:hunter2@{server.addr}?group=g"
        (tmp_path / "shop.py").write_text(
            f"from goevent import GoEvent\nbus = GoEvent({url!r})\n"
            "@bus.listener('order.paid')\ndef note(event): ...\n"
        )
        poor = await run_goevent("check", "shop:bus", cwd=tmp_path)
        wrong = await run_goevent("check", f"redis+streams://poor:hunter3@{server.addr}", "--json")
    assert poor.returncode == 1
    assert poor.stdout.startswith("error: ")
    assert wrong.returncode == 1
    (finding,) = json.loads(wrong.stdout)["findings"]
    assert finding["severity"] == "error"
    for result in (poor, wrong):
        assert "hunter" not in result.stdout + result.stderr


async def test_check_warns_of_a_server_without_an_append_only_file() -> None:
    async with redis_server("appendonly no") as server:
        warned = await run_goevent("check", url_of(server))
        assert (warned.returncode, warned.stdout.count("warning: ")) == (0, 1)
        assert (await run_goevent("check", url_of(server), "--strict")).returncode == 1
