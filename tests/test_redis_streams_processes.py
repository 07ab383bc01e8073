"""Workers that are killed and frozen, in processes of their own; and the chaos run, in small."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from redis_server import RedisServer, server_program
from streams_buses import StreamsBus, asking, pending, publish, quiet, streams_server
from workers import Worker, at_work

ROOT = Path(__file__).parent.parent


def working(
    server: RedisServer, seconds: float, claim_idle: float
) -> AbstractAsyncContextManager[Worker]:
    """Run a worker whose listener takes so many seconds."""
    return at_work("streams_worker.py", server.addr, str(seconds), str(claim_idle))


async def test_killed_worker_loses_nothing_that_it_had() -> None:
    async with streams_server() as server, asking(server) as ask:
        async with working(server, 30.0, 0.5) as worker, StreamsBus(server.addr, None) as sender:
            await publish(sender, *range(10))
            await worker.says("begun", 10)
            worker.process.kill()
        bus = StreamsBus(server.addr, claim_idle=0.5)
        tries = bus.tries()
        async with bus:
            await quiet(ask)
    assert sorted(tries) == [(n, 2) for n in range(10)]


async def test_frozen_worker_does_not_acknowledge_what_others_have_done_and_says_so() -> None:
    async with (
        streams_server() as server,
        asking(server) as ask,
        working(server, 1.0, 0.5) as worker,
    ):
        async with StreamsBus(server.addr, None) as sender:
            await publish(sender, 1)
        await worker.says("begun 1")
        worker.process.send_signal(signal.SIGSTOP)
        bus = StreamsBus(server.addr, claim_idle=0.5)
        gate = trio.Event()
        began: list[int] = []

        async def work(event: object) -> None:
            began.append(1)
            await gate.wait()

        bus.subscribe(work, "order.paid")
        async with bus:
            with trio.fail_after(10):
                while not began:
                    await trio.sleep(0.01)
            worker.process.send_signal(signal.SIGCONT)
            await worker.says("done 1")
            await worker.says("finished here too late")
            assert await pending(ask) == 1  # it still belongs to the other one
            gate.set()
            await quiet(ask)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_chaos_loses_nothing_and_flags_what_is_done_again(fsync: str) -> None:
    server_program()  # or skip
    scale = "--events 800 --rate 400 --consumer-kills 3 --server-kills 2 --json"
    command = [sys.executable, "-m", "benchmarks", "chaos", "--fsync", fsync, *scale.split()]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout.decode()
    assert counts["accepted"] == 800
    assert not counts["lost"]
    assert not counts["unflagged"]
    assert not counts["pending"]


async def test_ledger_of_the_chaos_finds_what_is_lost_or_done_twice_without_a_flag(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path; from benchmarks._chaos._ledger import read;"
        "counts = read(Path(sys.argv[1]).iterdir());"
        "print(counts.lost, counts.unflagged, counts.duplicates, len(counts.complaints()))"
    )
    (tmp_path / "produce-1").write_text("accepted 1 1-0\naccepted 2 2-0\naccepted 3 3-0\n")
    (tmp_path / "consume-1").write_text("ready\ndone 1 1 0\ndone 2 1 0\n")
    (tmp_path / "consume-2").write_text("done 1 2 0\ndone 2 1 0\n")
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    assert done.stdout.decode().strip() == "[3] [2] 2 3"
