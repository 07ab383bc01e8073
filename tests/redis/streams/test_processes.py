"""Workers in processes of their own are killed and frozen; a small chaos run."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import (
    A0,
    BASE,
    PARTITIONS,
    PartitionedBus,
    in_order,
    move,
    shared,
    until_partitions_settled,
)
from tests.support.redis_buses import opened
from tests.support.redis_server import RedisServer, server_program
from tests.support.streams_buses import (
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)
from tests.support.worker_process import WorkerProcess, at_work

ROOT = Path(__file__).parents[3]


def working(
    server: RedisServer, seconds: float, claim_idle: float, partitions: int = 1
) -> AbstractAsyncContextManager[WorkerProcess]:
    """Run a worker whose listener takes so many seconds for an event."""
    arguments = (server.addr, str(seconds), str(claim_idle), str(partitions))
    return at_work("streams_worker", *arguments)


async def test_killed_worker_loses_none_of_its_events() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with working(server, 30.0, 0.5) as worker, StreamsBus(server.addr, None) as sender:
            await publish(sender, *range(10))
            await worker.says("begun", 10)
            worker.process.kill()
        bus = StreamsBus(server.addr, claim_idle=0.5)
        tries = bus.tries()
        async with bus:
            await until_settled(ask)
    assert sorted(tries) == [(n, 2) for n in range(10)]


async def test_frozen_worker_reports_events_that_another_bus_has_taken_over() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
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
            with trio.fail_after(HANG_SECONDS):
                while not began:
                    await trio.sleep(0.01)
            worker.process.send_signal(signal.SIGCONT)
            await worker.says("done 1")
            await worker.says("finished here too late")
            # The entry still belongs to the other bus.
            assert await pending(ask) == 1
            gate.set()
            await until_settled(ask)


async def test_frozen_owner_of_a_partition_reports_that_it_has_lost_it() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        working(server, 1.0, 1.0, PARTITIONS) as worker,
    ):
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 5, 1)
        await worker.says("begun 0")
        with trio.fail_after(HANG_SECONDS):
            while await pending(ask, key=f"{BASE}:{A0}") < 5:
                await trio.sleep(0.01)
        worker.process.send_signal(signal.SIGSTOP)
        bus = PartitionedBus(server.addr, claim_idle=1.0)
        moves = bus.moves()
        async with bus:
            await until_partitions_settled(ask)
            assert moves == [("a0", n, 2) for n in range(5)]
            worker.process.send_signal(signal.SIGCONT)
            await worker.says("has lost the partition")
            await worker.says("done 0")
            await worker.says("finished here too late")
            await shared(ask, 2, 2)
            await move(bus, 20, 20, 5)
            await until_partitions_settled(ask)
        assert not bus.told
    assert next(line for line in worker.said if line.startswith("begun")) == "begun 0 1"
    assert not {"begun 1 1", "begun 2 1", "begun 3 1", "begun 4 1"} & {*worker.said}


async def test_events_of_a_killed_owner_are_taken_over_in_order() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with (
            working(server, 30.0, 0.5, PARTITIONS) as worker,
            PartitionedBus(server.addr, None) as sender,
        ):
            await move(sender, 40, 4)
            await worker.says("begun", 4)
            worker.process.kill()
        buses = [PartitionedBus(server.addr, claim_idle=0.5) for _ in range(2)]
        moves = [bus.moves() for bus in buses]
        async with opened(*buses):
            await until_partitions_settled(ask)
    together = moves[0] + moves[1]
    assert in_order(together, 40, 4)
    assert {deliveries for _, n, deliveries in together if n < 4} == {2}


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_chaos_loses_no_event_and_flags_repeats(fsync: str) -> None:
    # Skips the test if there is no server.
    server_program()
    scale = "--events 800 --rate 400 --consumer-kills 3 --server-kills 2 --json"
    command = [sys.executable, "-m", "benchmarks", "chaos", "--fsync", fsync, *scale.split()]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout.decode()
    assert counts["accepted"] == 800
    assert not counts["lost"]
    assert not counts["unflagged"]
    assert not counts["pending"]


async def test_chaos_keeps_the_order_of_each_key() -> None:
    # Skips the test if there is no server.
    server_program()
    scale = "--events 800 --rate 200 --consumer-kills 2 --server-kills 1 --freezes 1 --json"
    scale += " --partitions 8 --fsync everysec"
    command = [sys.executable, "-m", "benchmarks", "chaos", *scale.split()]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout.decode()
    assert (counts["accepted"], counts["keys"]) == (800, 100)
    assert not counts["lost"] + counts["unflagged"] + counts["overtaken"]
    assert not counts["pending"]


@pytest.mark.parametrize(
    ("done", "overtaken"),
    [
        (["1 1 2", "2 3 4", "3 5 6"], []),
        # Repeats of a prefix overtake nothing.
        (["1 1 2", "2 3 4", "1 5 6", "2 7 8", "3 9 10"], []),
        # The third event comes too early, and the second one too late.
        (["1 1 2", "3 3 4", "2 5 6"], [2, 3]),
        # The second event begins before the first one ends.
        (["1 1 4", "2 3 5"], [2]),
    ],
)
async def test_ledger_of_the_chaos_finds_overtaken_events(
    tmp_path: Path, done: list[str], overtaken: list[int]
) -> None:
    program = (
        "import sys; from pathlib import Path; from benchmarks.chaos.ledger import read;"
        "counts = read(Path(sys.argv[1]).iterdir());"
        "print(counts.overtaken, len(counts.complaints(ordered=True)) > len(counts.complaints()))"
    )
    runs = [each.split() for each in done]
    for number, book in enumerate((runs[::2], runs[1::2])):
        lines = [f"done {n} 1 0 a {began} {ended}\n" for n, began, ended in book]
        (tmp_path / f"consume-{number}").write_text("".join(lines))
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    assert said.stdout.decode().strip() == f"{overtaken} {bool(overtaken)}"


async def test_ledger_of_the_chaos_finds_lost_events_and_unflagged_repeats(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path; from benchmarks.chaos.ledger import read;"
        "counts = read(Path(sys.argv[1]).iterdir());"
        "print(counts.lost, counts.unflagged, counts.duplicates, len(counts.complaints()))"
    )
    (tmp_path / "produce-1").write_text("accepted 1 1-0\naccepted 2 2-0\naccepted 3 3-0\n")
    (tmp_path / "consume-1").write_text("ready\ndone 1 1 0 a 1 2\ndone 2 1 0 a 2 3\n")
    (tmp_path / "consume-2").write_text("done 1 2 0 a 3 4\ndone 2 1 0 a 4 5\n")
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    assert done.stdout.decode().strip() == "[3] [2] 2 3"
