"""The suite of conversations: its contenders, its jobs, and the effort of a run.

The requests of one process are answered by another one. The contenders do the same: one typed
question, one typed answer, a timeout for each request.
"""

from dataclasses import dataclass
from functools import partial

from benchmarks.brokers.contender import TASKS, Measured, Place
from benchmarks.brokers.harness import (
    SUBJECT,
    BrokerContender,
    BrokerFigures,
    BrokerJob,
    child,
    measure,
    number_of_rounds,
    run_rounds,
    suite_parser,
)
from benchmarks.brokers.redis_server import NO_OUTPUT_LIMIT, redis_server
from benchmarks.brokers.servers import nats_server
from benchmarks.report.brokers import show_jobs, write_figures

FASTSTREAM, REDIS_ASYNCIO, NATS_PY = "FastStream", "redis.asyncio", "nats-py"
DISPATCH, CHANNEL = "dispatch and wait", "Trio's channel"

ON_REDIS = (
    BrokerContender(SUBJECT, "conversations.goevent"),
    BrokerContender(FASTSTREAM, "conversations.faststream", "faststream"),
    BrokerContender(REDIS_ASYNCIO, "conversations.redis_asyncio", "redis"),
)
ON_NATS = (
    BrokerContender(SUBJECT, "conversations.goevent", "nats"),
    BrokerContender(NATS_PY, "conversations.nats_py", "nats"),
)
ONE_REQUEST = "one request"
MEMORY = "conversations.memory"


@dataclass(frozen=True)
class ConversationEffort:
    """The size of a run."""

    seconds: float
    count: int


FULL = ConversationEffort(seconds=1.5, count=30_000)
QUICK = ConversationEffort(seconds=0.2, count=1_000)

JOBS = {
    "ask": BrokerJob(f"Redis, {TASKS} tasks, requests/s", {FASTSTREAM: 4, REDIS_ASYNCIO: 1.5}),
    "ask_alone": BrokerJob("Redis, one task, requests/s", {FASTSTREAM: 4, REDIS_ASYNCIO: 1.5}),
    "ask_once": BrokerJob("Redis, one task, median us", {FASTSTREAM: 0.6}, more_is_better=False),
    "ask_nats": BrokerJob(f"NATS, {TASKS} tasks, requests/s", {NATS_PY: 1}),
    "wait_for_all": BrokerJob(
        'Redis, scope="all", 10 buses, median us', {ONE_REQUEST: 3}, more_is_better=False
    ),
    "request": BrokerJob("memory, request, us", {DISPATCH: 2}, more_is_better=False),
    "stream": BrokerJob("memory, stream, us per event", {CHANNEL: 1.2}, more_is_better=False),
}


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = suite_parser("conversations", "Requests and reports of goevent beside its peers.")
    chosen = parser.parse_args(arguments)
    effort = QUICK if chosen.quick else FULL
    on_redis = [each for each in ON_REDIS if each.is_installed()]
    on_nats = [each for each in ON_NATS if each.is_installed()]
    jobs = {
        "ask": on_redis,
        "ask_alone": on_redis,
        "ask_once": on_redis,
        "ask_nats": on_nats,
        "wait_for_all": [ON_REDIS[0], BrokerContender(ONE_REQUEST, ON_REDIS[0].module)],
        "request": [BrokerContender(SUBJECT, MEMORY), BrokerContender(DISPATCH, MEMORY)],
        "stream": [BrokerContender(SUBJECT, MEMORY), BrokerContender(CHANNEL, MEMORY)],
    }
    with redis_server(None, NO_OUTPUT_LIMIT) as redis, nats_server() as nats:
        places = {"redis": Place("redis", redis.addr), "nats": Place("nats", nats.addr)}
        rounds = number_of_rounds(chosen)
        figures = run_rounds(rounds, jobs, partial(_take, places, effort))
    title = (
        f"Requests and answers: medians of {rounds} interleaved rounds; one process asks, another "
        "one answers."
    )
    show_jobs(figures, JOBS, jobs, title)
    for failure in figures.failures:
        print(f"failed: {failure}")
    if chosen.json:
        write_figures(chosen.json, figures.as_json())
    return 1 if figures.failures else 0


def _take(
    places: dict[str, Place],
    effort: ConversationEffort,
    job: str,
    contender: BrokerContender,
    index: int,
    figures: BrokerFigures,
) -> Measured:
    redis = places["redis"]
    match job:
        case "request":
            function = "request" if contender.name == SUBJECT else "dispatch"
            return measure(contender, function, redis, effort.count)
        case "stream":
            function = "stream" if contender.name == SUBJECT else "channel"
            return measure(contender, function, redis, effort.count)
        case "wait_for_all" if contender.name == SUBJECT:
            return _converse(contender, "listen_many", "wait_for_all", redis, effort.seconds)
        case "ask":
            return _converse(contender, "respond", "ask", redis, effort.seconds, TASKS)
        case "ask_nats":
            return _converse(contender, "respond", "ask", places["nats"], effort.seconds, TASKS)
        case "ask_alone":
            return _converse(contender, "respond", "ask", redis, effort.seconds, 1)
        case _:
            return _converse(contender, "respond", "ask_once", redis, effort.seconds)


def _converse(
    contender: BrokerContender, server: str, client: str, place: Place, *numbers: float
) -> Measured:
    """Return the figure of a process that asks, while another one answers."""
    with child(contender, server, place) as answering:
        answering.wait_until_ready()
        return measure(contender, client, place, *numbers)
