"""The Lua scripts: each file is read by name, and the server accepts each script."""

from __future__ import annotations

from pathlib import Path

from tests.support.streams_buses import command_client, streams_server

import goevent_redis
from goevent_redis._streams import scripts
from goevent_redis._streams.scripts import LuaScript, behind_fence, read_lua

FOLDER = Path(goevent_redis.__file__).parent / "_streams" / "lua"
SCRIPTS = {name: each for name, each in vars(scripts).items() if isinstance(each, LuaScript)}


def test_every_file_is_a_script_with_the_name_of_its_constant() -> None:
    assert {path.stem.upper() for path in FOLDER.glob("*.lua")} == {*SCRIPTS}


def test_every_shared_file_is_included_in_a_script() -> None:
    shared = {path.stem: path.read_text() for path in (FOLDER / "shared").glob("*.lua")}
    sources = [behind_fence(script).source for script in SCRIPTS.values()]
    for name, text in shared.items():
        body = text.splitlines()[-2]
        assert any(body in source for source in sources), name
    assert not any("-- include" in source for source in sources)
    assert read_lua("claim").count("local function weight_of") == 1


async def test_server_accepts_every_script_alone_and_behind_a_fence() -> None:
    async with streams_server() as server, command_client(server) as ask:
        for script in SCRIPTS.values():
            for each in (script, behind_fence(script)):
                assert (await ask("SCRIPT", "LOAD", each.source)).decode() == each.sha
