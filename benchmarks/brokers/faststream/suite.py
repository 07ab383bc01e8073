"""The suite over FastStream's brokers: for each row, contenders, jobs and one figure."""

import secrets
from functools import partial
from importlib.util import find_spec

from benchmarks.brokers.contender import Measured, Place
from benchmarks.brokers.faststream.rows import FASTSTREAM, FLUSHING, ROWS, BrokerRow
from benchmarks.brokers.harness import (
    SUBJECT,
    BrokerContender,
    BrokerFigures,
    NotHere,
    measure,
    measure_flood,
    number_of_rounds,
    run_rounds,
    suite_parser,
)
from benchmarks.brokers.servers import SERVERS, clear
from benchmarks.report.brokers import show_row, write_figures

GOEVENT = BrokerContender(SUBJECT, "faststream.goevent")
PYDANTIC = BrokerContender(FASTSTREAM, "faststream.faststream")
MSGSPEC = BrokerContender("FastStream, msgspec", "faststream.faststream_msgspec")
WITH_FLUSH = BrokerContender(FLUSHING, "faststream.faststream_flushing")
PUBLISH_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = suite_parser("brokers", "goevent over FastStream's brokers beside FastStream itself.")
    parser.add_argument("only", nargs="*", choices=[[], *ROWS], help="these rows; default: all")
    chosen = parser.parse_args(arguments)
    rounds, part = number_of_rounds(chosen), 10 if chosen.quick else 1
    print(
        f"medians of {rounds} interleaved round(s), each figure from fresh processes; an event is "
        "150 bytes of JSON.\nFastStream's handler takes a model of pydantic, or of msgspec's "
        "serializer; goevent's listener is a def\nthat takes a typed event from a JSON envelope, "
        "and each publish has a handle that is waited for."
    )
    measured: dict[str, BrokerFigures] = {}
    for name in chosen.only or ROWS:
        try:
            measured[name] = _measure_row(name, rounds, part)
        except NotHere as reason:
            print(f"\n{ROWS[name].title}: SKIPPED, {reason}")
            continue
        show_row(ROWS[name], measured[name])
    if chosen.json:
        write_figures(chosen.json, {name: figures.as_json() for name, figures in measured.items()})
    return 1 if any(figures.failures for figures in measured.values()) else 0


def _measure_row(name: str, rounds: int, part: int) -> BrokerFigures:
    """Return the figures of one broker.

    Raises:
        NotHere: There is no such broker on this machine, or goevent has no adapter for it.
    """
    row = ROWS[name]
    if find_spec("faststream") is None:
        raise NotHere('faststream is not installed: pip install -e ".[dev,bench]"')
    _check_adapter(row)
    jobs = {
        "receive": [GOEVENT, PYDANTIC, MSGSPEC],
        "publish": [GOEVENT, PYDANTIC, *([WITH_FLUSH] if row.flushing else [])],
        "batches": [GOEVENT, WITH_FLUSH if row.flushing else PYDANTIC],
    }
    with SERVERS[row.server]() as addr:
        return run_rounds(rounds, jobs, partial(_take, name, addr, part))


def _check_adapter(row: BrokerRow) -> None:
    from goevent_faststream import MAPPINGS

    scheme = row.goevent.partition("://")[0]
    if not any(scheme in mapping.schemes for mapping in MAPPINGS):
        raise NotHere(f"goevent has no adapter for {scheme}:// yet")


def _take(
    name: str,
    addr: str,
    part: int,
    job: str,
    contender: BrokerContender,
    index: int,
    figures: BrokerFigures,
) -> Measured:
    row, place = ROWS[name], Place(name, addr, f"bench-{secrets.token_hex(4)}")
    try:
        if job != "receive":
            return measure(contender, job, place, PUBLISH_SECONDS / part)
        received, sent = measure_flood(contender, place, row.messages // part)
        figures.add("flood", contender.name, index, sent)
        return received
    finally:
        clear(row.server, addr, place.tag)
