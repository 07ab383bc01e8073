"""The suite of telemetry: bare, without an SDK and with one, beside FastStream with its own.

A figure is the CPU time of one event, from its dispatch to the end of its listener in another bus
of the same process. The overhead of a mode is the difference to the bare contender of its round.
"""

from functools import partial
from statistics import median

from benchmarks.brokers.contender import Measured, Place
from benchmarks.brokers.harness import (
    SUBJECT,
    BrokerContender,
    BrokerFigures,
    measure,
    number_of_rounds,
    run_rounds,
    suite_parser,
)
from benchmarks.brokers.redis_server import NO_OUTPUT_LIMIT, redis_server
from benchmarks.brokers.telemetry.providers import BARE, NO_OP, SDK
from benchmarks.report.brokers import write_figures

FASTSTREAM = "FastStream"
CONTENDERS = (
    BrokerContender(SUBJECT, "telemetry.goevent", "opentelemetry"),
    BrokerContender(FASTSTREAM, "telemetry.faststream", "faststream"),
)
MODES = (BARE, NO_OP, SDK)
MOST_OVERHEAD = 0.5
"""The goal: goevent's overhead for each event, as a part of FastStream's."""
EVENTS, QUICK_EVENTS = 8_000, 800


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = suite_parser("telemetry", "OpenTelemetry in goevent beside FastStream's own.")
    chosen = parser.parse_args(arguments)
    contenders = [each for each in CONTENDERS if each.is_installed()]
    events = QUICK_EVENTS if chosen.quick else EVENTS
    with redis_server(None, NO_OUTPUT_LIMIT) as server:
        take = partial(_take, server.addr, events)
        figures = run_rounds(number_of_rounds(chosen), dict.fromkeys(MODES, contenders), take)
    show(figures)
    for failure in figures.failures:
        print(f"failed: {failure}")
    if chosen.json:
        write_figures(chosen.json, figures.as_json())
    return 1 if figures.failures else 0


def _take(
    addr: str, events: int, mode: str, contender: BrokerContender, _: int, __: BrokerFigures
) -> Measured:
    return measure(contender, "traverse", Place("redis", addr, mode), events)


def overheads(figures: BrokerFigures, mode: str, contender: str) -> dict[int, float]:
    """Return the CPU time that a mode adds to an event, in us, for each round."""
    modes = figures.rounds
    bare, taken = modes.get(BARE, {}).get(contender, {}), modes.get(mode, {}).get(contender, {})
    return {
        index: taken[index].cpu - bare[index].cpu  # type: ignore[operator]
        for index in taken
        if index in bare
    }


def show(figures: BrokerFigures) -> None:
    """Print the CPU time of an event, the overhead of each mode, and the ratios."""
    print("CPU time of an event over Redis pub/sub, us (median of the rounds)")
    for mode in MODES:
        for contender in CONTENDERS:
            if figures.figures(mode, contender.name):
                print(f"  {mode:14} {contender.name:12} {figures.cpu(mode, contender.name):8.1f}")
    for mode in (NO_OP, SDK):
        ours, theirs = (overheads(figures, mode, each.name) for each in CONTENDERS)
        rounds = [index for index in ours if index in theirs]
        if rounds:
            ratio = median(ours[index] / theirs[index] for index in rounds)
            print(
                f"overhead with {mode}: goevent {median(ours.values()):.1f} us, FastStream "
                f"{median(theirs.values()):.1f} us, ratio {ratio:.2f} (goal: {MOST_OVERHEAD})"
            )
