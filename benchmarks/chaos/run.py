"""The run: it starts producers and consumers in processes of their own, and kills them."""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from benchmarks.brokers.redis_server import BenchmarkServer
from benchmarks.chaos.ledger import Counts, read
from benchmarks.chaos.worker import CLAIM_IDLE_SECONDS, GROUP

NAME = GROUP.encode()
STREAM = "goevent:stream:order.paid"
FREEZE_SECONDS = 1.5 * CLAIM_IDLE_SECONDS
"""How long a consumer is frozen; other consumers claim its entries meanwhile."""

SETTLE_SECONDS = 60.0
"""The limit until nothing is pending after the last kill."""

MAX_WRITE_DELAY_SECONDS = 5.0


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks chaos",
        description="Kill consumers and the server under load, and count every event.",
    )
    parser.add_argument("--quick", action="store_true", help="small: a tenth of the events")
    parser.add_argument("--soak", action="store_true", help="100,000 events and 100 kills")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=500.0, help="events per second, together")
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--consumer-kills", type=int, default=12)
    parser.add_argument("--server-kills", type=int, default=6)
    parser.add_argument(
        "--partitions", type=int, default=1, help="more than one: check the order of each key, too"
    )
    parser.add_argument(
        "--freezes", type=int, default=0, help="consumers that are frozen, and thawed late"
    )
    parser.add_argument("--fsync", choices=["always", "everysec", "both"], default="both")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON, too")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.events, chosen.consumer_kills, chosen.server_kills = 1000, 4, 2
    if chosen.soak:
        chosen.events, chosen.consumer_kills, chosen.server_kills = 100_000, 70, 30
    modes = ["always", "everysec"] if chosen.fsync == "both" else [chosen.fsync]
    failed = False
    for fsync in modes:
        began = time.monotonic()
        counts = ChaosRun(chosen, fsync).run()
        failed |= bool(counts.complaints(ordered=chosen.partitions > 1))
        show(chosen, fsync, counts, time.monotonic() - began)
    return int(failed)


def show(chosen: argparse.Namespace, fsync: str, counts: Counts, seconds: float) -> None:
    """Print the counts of one run."""
    print(
        f"appendfsync {fsync}: {chosen.producers} producers, {chosen.consumers} consumers, "
        f"{chosen.consumer_kills} + {chosen.server_kills} x kill -9 of consumers + server, "
        f"{chosen.freezes} freezes, {chosen.partitions} partition(s), {seconds:.0f} s"
    )
    ordered = chosen.partitions > 1
    share = 100 * counts.duplicates / max(1, counts.accepted)
    rows = {
        "accepted": counts.accepted,
        "refused": counts.refused,
        "accepted and lost": len(counts.lost),
        "done again": f"{counts.duplicates} ({share:.1f} %)",
        "of these without a flag": len(counts.unflagged),
        **({"keys": counts.keys, "out of order": len(counts.overtaken)} if ordered else {}),
        "pending at the end": counts.pending,
        "nothing pending after": f"{counts.settled_in:.1f} s",
        "reports": ", ".join(f"{n} {kind}" for kind, n in counts.reports.most_common()),
    }
    for name, value in rows.items():
        print(f"  {name:26}{value}")
    for kind, sample in counts.samples.items():
        print(f"  {kind}: {sample[:200]}")
    for complaint in counts.complaints(ordered=ordered):
        print(f"  BROKEN: {complaint}")
    if chosen.json:
        document = {"fsync": fsync, "accepted": counts.accepted, "lost": counts.lost}
        document |= {"duplicates": counts.duplicates, "unflagged": counts.unflagged}
        document |= {"keys": counts.keys, "overtaken": counts.overtaken} if ordered else {}
        print(json.dumps(document | {"pending": counts.pending}))
    sys.stdout.flush()


class ChaosRun:
    """One run on one server."""

    def __init__(self, chosen: argparse.Namespace, fsync: str) -> None:
        self._chosen = chosen
        self._server = BenchmarkServer(fsync)
        self._records = Path(tempfile.mkdtemp(prefix="goevent-chaos-records-"))
        self._started = 0
        self._consumers: list[subprocess.Popen[bytes]] = []
        self._thaws: list[threading.Timer] = []

    def run(self) -> Counts:
        """Run it, and return the counts."""
        try:
            with self._server:
                return self._run()
        finally:
            for process in self._consumers:
                process.kill()
            shutil.rmtree(self._records, ignore_errors=True)

    def _run(self) -> Counts:
        chosen = self._chosen
        self._consumers = [self._worker("consume") for _ in range(chosen.consumers)]
        self._wait_for_records("consume-*", "ready", chosen.consumers)
        each = chosen.events // chosen.producers
        rate = str(chosen.rate / chosen.producers)
        producers = [
            self._worker("produce", str(number * each), str(each), rate)
            for number in range(chosen.producers)
        ]
        self._wait_for_records("produce-*", "accepted", chosen.producers)
        self._kill_all(chosen.events / chosen.rate)
        last_kill = time.monotonic()
        for process in producers:
            process.wait(timeout=SETTLE_SECONDS + 10 * chosen.events / chosen.rate)
        pending = self._settle(max(last_kill, time.monotonic()) + SETTLE_SECONDS)
        settled_in = time.monotonic() - last_kill
        for thaw in self._thaws:
            thaw.join()
        for process in self._consumers:
            process.send_signal(signal.SIGTERM)
        for process in self._consumers:
            process.wait(timeout=SETTLE_SECONDS)
        counts = read(self._records.iterdir())
        counts.pending, counts.settled_in = pending, settled_in
        return counts

    def _wait_for_records(self, records: str, word: str, count: int) -> None:
        """Wait until this many processes have recorded a word."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while sum(word in path.read_text() for path in self._records.glob(records)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all of {records} have recorded {word!r}")
            time.sleep(0.02)

    def _kill_all(self, seconds: float) -> None:
        """Kill and freeze consumers, and kill the server, evenly spread, in random order."""
        chosen = self._chosen
        kills = ["consumer"] * chosen.consumer_kills + ["server"] * chosen.server_kills
        kills += ["freeze"] * chosen.freezes
        random.shuffle(kills)
        pause = seconds / (len(kills) + 1)
        due = time.monotonic()
        for kill in kills:
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))
            place = random.randrange(len(self._consumers))
            if kill == "server":
                self._await_writes()
                self._server.kill()
                self._server.start()
            elif kill == "freeze":
                process = self._consumers[place]
                process.send_signal(signal.SIGSTOP)
                thaw = threading.Timer(FREEZE_SECONDS, process.send_signal, [signal.SIGCONT])
                thaw.start()
                self._thaws.append(thaw)
            else:
                self._consumers[place].kill()
                self._consumers[place].wait()
                self._consumers[place] = self._worker("consume")

    def _await_writes(self) -> None:
        """Wait until the server writes to its append-only file before it replies.

        With `everysec`, a server delays its writes for up to two seconds while the disk is busy
        with the last fsync. A kill in that time loses accepted events; that is the server's promise
        and not ours.
        """
        with redis.Redis(port=self._server.port) as client:
            deadline = time.monotonic() + MAX_WRITE_DELAY_SECONDS
            while client.info("persistence").get("aof_pending_bio_fsync"):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)

    def _settle(self, deadline: float) -> int:
        """Wait until everything is acknowledged; return the number of entries that are not."""
        client = redis.Redis(port=self._server.port)
        numbers = range(self._chosen.partitions)
        streams = [f"{STREAM}:{number}" for number in numbers] if len(numbers) > 1 else [STREAM]
        while True:
            left = sum(self._left(client, stream) for stream in streams)
            if not left or time.monotonic() > deadline:
                client.close()
                return left
            time.sleep(0.05)

    def _left(self, client: redis.Redis, stream: str) -> int:
        newest = client.xinfo_stream(stream)["last-generated-id"]
        for group in client.xinfo_groups(stream):
            if group["name"] == NAME:
                # Not the lag: a restarted server does not know it.
                return int(group["pending"]) or int(group["last-delivered-id"] != newest)
        return 1

    def _worker(self, role: str, *rest: str) -> subprocess.Popen[bytes]:
        self._started += 1
        record = self._records / f"{role}-{self._started}"
        command = [sys.executable, "-m", "benchmarks.chaos.worker", role, self._server.addr]
        command += [str(record), str(self._chosen.partitions), *rest]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)
