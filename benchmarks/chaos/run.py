"""The run: it starts producers and consumers in processes of their own, and kills them."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.chaos.drivers import CLAIM_IDLE_SECONDS, ChaosDriver
from benchmarks.chaos.ledger import Counts, Interruption, read
from benchmarks.chaos.resources import cpu_seconds, peak_mib
from benchmarks.chaos.servers.contract import GROUP, ChaosServer

REPOSITORY = Path(__file__).resolve().parents[2]

FREEZE_SECONDS = 1.5 * CLAIM_IDLE_SECONDS
"""How long a consumer is frozen; other consumers claim its entries meanwhile."""

OUTAGE_SECONDS = 8.0
"""How long the server stays down in an outage: longer than a publish is tried."""

OUTAGE_SETTLE_SECONDS = 1.0
"""From the beginning of an outage until the CPU is measured: the loss itself costs some."""

START_SECONDS = 300.0
"""No limit on speed: a worker that does not start must not hang the run."""

SETTLE_SECONDS = 180.0
"""The limit until nothing is pending after the last kill; a busy machine stays below it."""

HUNG_SECONDS = 15.0
"""Without a settled event for this long, a broker whose groups may hang is started again."""

QUIET_SECONDS = 5.0
"""Without an event for this long, a run on a broker that counts nothing is over."""


@dataclass(frozen=True, kw_only=True)
class ChaosPlan:
    """The size of a run.

    Attributes:
        rate: Events per second of all producers together.
        kills: How many interruptions of each kind there are; `ChaosRun` has the kinds.
        event_bytes: The size of the text in each event.
        failure_share: The share of events that fail, on durable drivers.
    """

    events: int
    rate: float
    producers: int
    consumers: int
    kills: Mapping[str, int]
    event_bytes: int = 0
    failure_share: float = 0.01

    @property
    def kills_nothing(self) -> bool:
        """True if consumers are ended by SIGTERM only."""
        return all(kind == "rolling" for kind, count in self.kills.items() if count)


class ChaosRun:
    """One run on one server of its own."""

    def __init__(self, driver: ChaosDriver, plan: ChaosPlan) -> None:
        self._driver = driver
        self._plan = plan
        self._server: ChaosServer = driver.server()
        self._records = Path(tempfile.mkdtemp(prefix="goevent-chaos-records-"))
        self._started = 0
        self._consumers_started = 0
        self._consumers: list[subprocess.Popen[bytes]] = []
        self._producers: list[subprocess.Popen[bytes]] = []
        self._thaws: list[threading.Timer] = []
        self._interruptions: list[Interruption] = []
        self._cpu_while_down: dict[str, float] = {}
        self._peak_mib = 0.0
        self._hung = 0
        self._restarted = 0
        self._stops: list[float] = []
        self._unclean: list[int] = []

    def run(self, *, keep: Path | None = None) -> Counts:
        """Run it, and return the counts.

        Args:
            keep: A directory that is made for the records of all processes.

        Raises:
            NotHere: The broker does not start.
        """
        try:
            with self._server.process:
                return self._run()
        finally:
            for process in (*self._consumers, *self._producers):
                process.kill()
                process.wait()
            if keep is not None:
                shutil.copytree(self._records, keep)
            shutil.rmtree(self._records, ignore_errors=True)

    def _run(self) -> Counts:
        plan = self._plan
        self._server.prepare()
        self._consumers = [self._consumer() for _ in range(plan.consumers)]
        self._wait_for_records("consume-*", "ready", plan.consumers)
        each = plan.events // plan.producers
        self._producers = [self._producer(number * each, each) for number in range(plan.producers)]
        self._wait_for_records("produce-*", "accepted", plan.producers)
        self._interrupt_all(plan.events / plan.rate)
        last = time.monotonic()
        for process in self._producers:
            process.wait(timeout=SETTLE_SECONDS + 10 * plan.events / plan.rate)
        pending = self._settle(max(last, time.monotonic()) + SETTLE_SECONDS)
        settled_in = time.monotonic() - last
        for thaw in self._thaws:
            thaw.join()
        for process in self._consumers:
            self._note_memory(process)
            process.send_signal(signal.SIGTERM)
        for process in self._consumers:
            process.wait(timeout=SETTLE_SECONDS)
        lines = (" ".join(map(str, each)) for each in self._interruptions)
        (self._records / "interruptions").write_text("\n".join(lines) + "\n")
        counts = read(self._records.iterdir(), self._interruptions)
        counts.pending, counts.settled_in = pending, settled_in
        counts.hung = self._hung
        counts.stops, counts.unclean = self._stops, self._unclean
        counts.cpu_while_down, counts.peak_mib = self._cpu_while_down, self._peak_mib
        return counts

    def _wait_for_records(self, records: str, word: str, count: int) -> None:
        """Wait until this many processes have recorded a word."""
        deadline = time.monotonic() + START_SECONDS
        while sum(word in path.read_text() for path in self._records.glob(records)) < count:
            workers = (*self._consumers, *self._producers)
            if time.monotonic() > deadline or any(worker.poll() for worker in workers):
                raise RuntimeError(f"not all of {records} have recorded {word!r}")
            time.sleep(0.02)

    # -- interruptions

    def _interrupt_all(self, seconds: float) -> None:
        """Interrupt consumers and the server, evenly spread, in random order."""
        kinds: dict[str, Callable[[], None]] = {
            "consumer": self._kill_consumer,
            "freeze": self._freeze_consumer,
            "server": self._kill_server,
            "stall": self._freeze_server,
            "outage": self._take_server_down,
            "rolling": self._restart_consumer,
        }
        order = [kind for kind, count in self._plan.kills.items() for _ in range(count)]
        random.shuffle(order)
        pause = seconds / (len(order) + 1)
        due = time.monotonic()
        for kind in order:
            # A server may take longer to start than the pause.
            due = max(due + pause, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic_ns()
            kinds[kind]()
            self._interruptions.append(Interruption(kind, began, time.monotonic_ns()))

    def _kill_consumer(self) -> None:
        place = random.randrange(len(self._consumers))
        process = self._consumers[place]
        self._note_memory(process)
        process.kill()
        process.wait()
        self._consumers[place] = self._consumer()

    def _restart_consumer(self) -> None:
        """Restart the consumers in turn, as a supervisor of processes rolls out a new version."""
        # A consumer that has not opened its bus has no work to hand over.
        self._wait_for_records("consume-*", "ready", self._consumers_started)
        place = self._restarted % len(self._consumers)
        self._restarted += 1
        process = self._consumers[place]
        self._note_memory(process)
        self._stop_consumer(process)
        self._consumers[place] = self._consumer()

    def _stop_consumer(self, process: subprocess.Popen[bytes]) -> None:
        """End a consumer with SIGTERM, and note its exit code and the time that it took."""
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=SETTLE_SECONDS)
        self._stops.append(time.monotonic() - began)
        if code:
            self._unclean.append(code)

    def _freeze_consumer(self) -> None:
        process = random.choice(self._consumers)
        process.send_signal(signal.SIGSTOP)
        thaw = threading.Timer(FREEZE_SECONDS, process.send_signal, [signal.SIGCONT])
        thaw.start()
        self._thaws.append(thaw)

    def _kill_server(self) -> None:
        self._server.await_writes()
        self._server.process.kill()
        self._server.process.start()

    def _freeze_server(self) -> None:
        self._server.process.freeze()
        time.sleep(OUTAGE_SECONDS)
        self._server.process.thaw()

    def _take_server_down(self) -> None:
        self._server.await_writes()
        self._server.process.kill()
        time.sleep(OUTAGE_SETTLE_SECONDS)
        workers = [("consumer", each.pid) for each in self._consumers]
        workers += [("producer", each.pid) for each in self._producers if each.poll() is None]
        began, before = time.monotonic(), [cpu_seconds(pid) for _, pid in workers]
        time.sleep(OUTAGE_SECONDS - OUTAGE_SETTLE_SECONDS)
        seconds = time.monotonic() - began
        for (role, pid), used in zip(workers, before, strict=True):
            percent = 100 * (cpu_seconds(pid) - used) / seconds
            self._cpu_while_down[role] = max(percent, self._cpu_while_down.get(role, 0.0))
        self._server.process.start()

    # -- the end

    def _settle(self, deadline: float) -> int:
        """Wait until everything is acknowledged; return the number of events that are not."""
        before, since = -1, time.monotonic()
        while True:
            left = self._server.unsettled()
            if left is None:
                self._wait_for_quiet(deadline)
                return 0
            if not left or time.monotonic() > deadline:
                return left
            if left != before:
                before, since = left, time.monotonic()
            elif self._driver.joins_hang and time.monotonic() > since + HUNG_SECONDS:
                self._kill_server()
                self._hung += 1
                since = time.monotonic()
            time.sleep(0.05)

    def _wait_for_quiet(self, deadline: float) -> None:
        """Wait until no process has recorded anything for a time."""
        size, since = 0, time.monotonic()
        while time.monotonic() < min(deadline, since + QUIET_SECONDS):
            now = sum(path.stat().st_size for path in self._records.iterdir())
            if now != size:
                size, since = now, time.monotonic()
            time.sleep(0.05)

    def _note_memory(self, process: subprocess.Popen[bytes]) -> None:
        self._peak_mib = max(self._peak_mib, peak_mib(process.pid))

    # -- the processes

    def _consumer(self) -> subprocess.Popen[bytes]:
        options = dict(self._driver.options)
        if self._plan.kills_nothing and self._driver.takes_all_commits:
            # Nobody dies, so no event has to be claimed from a consumer that is only slow. On Kafka
            # it is the session timeout, and tansu lets members wait for half of it when they join.
            options.pop("claim_idle", None)
        url = self._url(group=GROUP, **options)
        share = self._plan.failure_share if self._driver.durable else 0.0
        self._consumers_started += 1
        return self._worker("consume", url, "--failure-share", str(share))

    def _producer(self, first: int, count: int) -> subprocess.Popen[bytes]:
        plan = self._plan
        url = self._url(publish_timeout=self._driver.publish_timeout)
        options = {
            "--first": first,
            "--count": count,
            "--rate": plan.rate / plan.producers,
            "--bytes": plan.event_bytes,
        }
        words = [str(word) for option in options.items() for word in option]
        ordered = ["--ordered"] if self._driver.ordered else []
        return self._worker("produce", url, *words, *ordered)

    def _url(self, **options: object) -> str:
        return f"{self._server.url}&{urlencode(options)}"

    def _worker(self, role: str, url: str, *options: str) -> subprocess.Popen[bytes]:
        self._started += 1
        record = self._records / f"{role}-{self._started}"
        command = [sys.executable, "-m", "benchmarks.chaos.worker", role, url, str(record)]
        return subprocess.Popen([*command, *options], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
