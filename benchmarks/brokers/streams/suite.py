"""The suite over Redis Streams: its contenders and jobs, each figure with a server of its own."""

from functools import partial

from benchmarks.brokers.contender import Measured, Place
from benchmarks.brokers.harness import (
    SUBJECT,
    BrokerContender,
    BrokerFigures,
    BrokerJob,
    measure,
    number_of_rounds,
    run_rounds,
    suite_parser,
)
from benchmarks.brokers.redis_server import redis_server
from benchmarks.report.brokers import show_streams, write_figures

FASTSTREAM, REDIS_ASYNCIO = "faststream", "redis_asyncio"
CONTENDERS = (
    BrokerContender(SUBJECT, "streams.goevent"),
    BrokerContender(FASTSTREAM, "streams.faststream", "faststream"),
    BrokerContender(REDIS_ASYNCIO, "streams.redis_asyncio", "redis"),
)
BARE_SOCKET = BrokerContender("bare socket", "bare_socket")
"""The shortest round trip on Trio; it serves one task only."""


JOBS = {
    "consume": BrokerJob(
        "read, run a sync listener, acknowledge", {FASTSTREAM: 15.0, REDIS_ASYNCIO: 5.0}
    ),
    "wait": BrokerJob("publish and wait, 64 tasks", {FASTSTREAM: 3.0}),
    "wait_alone": BrokerJob(
        "publish and wait, one task", {REDIS_ASYNCIO: 1.2, BARE_SOCKET.name: 0.6}
    ),
    "batch": BrokerJob(
        "publish in batches of 100", {FASTSTREAM: 5.0, REDIS_ASYNCIO: 2.7}, most_cpu=3.0
    ),
}

EVENTS = {"consume": 50_000, "wait": 50_000, "wait_alone": 20_000, "batch": 50_000}
PEER_EVENTS = {"consume": 5_000, "wait": 10_000, "wait_alone": 5_000, "batch": 20_000}
"""Peers get fewer events, because they are slower."""


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = suite_parser("streams", "Durable events beside their peers.")
    parser.add_argument("--aof", action="store_true", help="a server with an append-only file")
    chosen = parser.parse_args(arguments)
    rounds, part = number_of_rounds(chosen), 10 if chosen.quick else 1
    contenders = [each for each in CONTENDERS if each.is_installed()]
    take = partial(_take, "everysec" if chosen.aof else None, part)
    jobs = dict.fromkeys(JOBS, contenders) | {"wait_alone": [*contenders, BARE_SOCKET]}
    figures = run_rounds(rounds, jobs, take)
    names = [each.name for each in (*contenders, BARE_SOCKET)]
    show_streams(figures, JOBS, names, rounds, aof=chosen.aof)
    for failure in figures.failures:
        print(f"failed: {failure}")
    if chosen.json:
        write_figures(chosen.json, figures.as_json())
    return 1 if figures.failures else 0


def _take(
    fsync: str | None,
    part: int,
    job: str,
    contender: BrokerContender,
    index: int,
    figures: BrokerFigures,
) -> Measured:
    count = (EVENTS if contender.name == SUBJECT else PEER_EVENTS)[job]
    with redis_server(fsync) as server:
        return measure(contender, job, Place("redis", server.addr), count // part)
