"""The suite over Redis pub/sub: its contenders, its jobs, and the effort of a run."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import partial

from benchmarks.brokers.contender import BATCH, Measured, Place
from benchmarks.brokers.harness import (
    SUBJECT,
    BrokerContender,
    BrokerFigures,
    BrokerJob,
    MeasurementFailed,
    child,
    measure,
    measure_flood,
    number_of_rounds,
    run_rounds,
    suite_parser,
)
from benchmarks.brokers.redis_server import NO_OUTPUT_LIMIT, redis_server
from benchmarks.brokers.server_process import ServerProcess
from benchmarks.report.brokers import show_pubsub, write_figures

FASTSTREAM, REDIS_ASYNCIO = "FastStream", "redis.asyncio"
CONTENDERS = (
    BrokerContender(SUBJECT, "pubsub.goevent"),
    BrokerContender(FASTSTREAM, "pubsub.faststream", "faststream"),
    BrokerContender(REDIS_ASYNCIO, "pubsub.redis_asyncio", "redis"),
    BrokerContender("goevent's link", "pubsub.link"),
)
BARE_SOCKET = BrokerContender("bare socket", "bare_socket")
"""The shortest round trip on Trio; it serves one task only."""
SPEAK_PAUSE_SECONDS = 0.005
NAMES = 10_000


@dataclass(frozen=True)
class PubSubEffort:
    """The size of a run; the slow contender gets fewer messages."""

    messages: int
    slow_messages: int
    seconds: float
    latencies: int


FULL = PubSubEffort(messages=40_000, slow_messages=15_000, seconds=1.5, latencies=300)
QUICK = PubSubEffort(messages=5_000, slow_messages=1_000, seconds=0.2, latencies=20)


JOBS = {
    "receive": BrokerJob(
        "receive and run a listener, messages/s", {FASTSTREAM: 30, REDIS_ASYNCIO: 1.2}
    ),
    "publish": BrokerJob(
        "publish and wait, 64 tasks, messages/s", {FASTSTREAM: 8.5, REDIS_ASYNCIO: 5.5}
    ),
    "publish_alone": BrokerJob(
        "publish and wait, one task, messages/s", {REDIS_ASYNCIO: 1.3, BARE_SOCKET.name: 0.7}
    ),
    "batches": BrokerJob(f"publish in batches of {BATCH}, messages/s", {}),
    "latency": BrokerJob(
        "publish to remote listener, median us",
        {FASTSTREAM: 0.5, REDIS_ASYNCIO: 1},
        more_is_better=False,
    ),
}


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = suite_parser("redis", "goevent over Redis pub/sub beside its peers.")
    chosen = parser.parse_args(arguments)
    rounds, effort = number_of_rounds(chosen), QUICK if chosen.quick else FULL
    contenders = [each for each in CONTENDERS if each.is_installed()]
    jobs = dict.fromkeys(JOBS, contenders) | {"publish_alone": [*contenders, BARE_SOCKET]}
    names = [each.name for each in (*contenders, BARE_SOCKET)]
    with redis_server(None, NO_OUTPUT_LIMIT) as server:
        place = Place("redis", server.addr)
        figures = run_rounds(rounds, jobs, partial(_take, place, effort))
        show_pubsub(figures, JOBS, names, rounds)
        try:
            _show_names(place)
        except MeasurementFailed as error:
            figures.failures.append(str(error))
        _show_redis_benchmark(server, effort)
    for failure in figures.failures:
        print(f"failed: {failure}")
    if chosen.json:
        write_figures(chosen.json, figures.as_json())
    return 1 if figures.failures else 0


def _take(
    place: Place,
    effort: PubSubEffort,
    job: str,
    contender: BrokerContender,
    index: int,
    figures: BrokerFigures,
) -> Measured:
    match job:
        case "receive":
            slow = contender.name == FASTSTREAM
            count = effort.slow_messages if slow else effort.messages
            received, _ = measure_flood(contender, place, count)
            return received
        case "publish" | "publish_alone" | "batches":
            return measure(contender, job, place, effort.seconds)
        case _:
            return _latency(contender, place, effort.latencies)


def _latency(contender: BrokerContender, place: Place, count: int) -> Measured:
    with child(contender, "listen", place, count) as listener:
        listener.wait_until_ready()
        with child(contender, "speak", place, count, SPEAK_PAUSE_SECONDS):
            return listener.result()


def _show_names(place: Place) -> None:
    names = BrokerContender("names", "pubsub.names")
    connections = measure(names, "connections", place, NAMES).figure
    size = measure(names, "name_bytes", place, NAMES).figure
    print(
        f"{NAMES:,} event names: {connections:.0f} connection(s), {size:,.0f} bytes each in the "
        "process (goal: 1 connection, at most 1,024 bytes)"
    )


def _show_redis_benchmark(server: ServerProcess, effort: PubSubEffort) -> None:
    """Show the figure of the server's own tool, with 64 requests in flight on one connection."""
    tool = shutil.which("redis-benchmark")
    if tool is None:
        return
    options = f"-h 127.0.0.1 -p {server.port} -c 1 -P 64 -n {effort.messages} --csv"
    output = subprocess.run(
        [tool, *options.split(), "publish", "bench.order", "x" * 150],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rate = float(output.splitlines()[-1].split('","')[1])
    print(f"redis-benchmark, PUBLISH, one connection, 64 in a row: {rate:,.0f} messages/s")
