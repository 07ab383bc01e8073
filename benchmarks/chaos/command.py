"""`python -m benchmarks chaos`: the command line, and the report of a run."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.brokers.harness import NotHere
from benchmarks.chaos.drivers import DRIVERS, ChaosDriver
from benchmarks.chaos.ledger import Counts
from benchmarks.chaos.run import ChaosPlan, ChaosRun

SIZES = {
    "quick": (400, {"consumer": 2, "freeze": 0, "server": 1, "stall": 0, "outage": 0}),
    "full": (10_000, {"consumer": 12, "freeze": 2, "server": 6, "stall": 1, "outage": 1}),
    "soak": (100_000, {"consumer": 70, "freeze": 10, "server": 30, "stall": 5, "outage": 5}),
    "rolling": (20_000, {"rolling": 20}),
}
"""The events and the interruptions of each size."""

NOT_HERE_EXIT_CODE = 3


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a promise was broken, and 3 without a broker."""
    chosen = _parser().parse_args(arguments)
    driver = DRIVERS[chosen.driver]
    plan = _plan(chosen, driver)
    # An end of this process, too, ends its workers and the broker.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    try:
        counts = ChaosRun(driver, plan).run(keep=chosen.records)
    except NotHere as reason:
        print(f"{driver.title}: SKIPPED, {reason}")
        return NOT_HERE_EXIT_CODE
    _show(driver, plan, counts, time.monotonic() - began)
    if chosen.json is not None:
        document = {chosen.driver: as_json(counts, plan)}
        chosen.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(bool(_complaints(driver, plan, counts)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks chaos",
        description="Kill consumers and the server under load, and count every event.",
    )
    parser.add_argument("--driver", choices=DRIVERS, default="streams")
    sizes = parser.add_mutually_exclusive_group()
    for size in ("quick", "soak", "rolling"):
        events, kills = SIZES[size]
        parts = ", ".join(f"{count} x {kind}" for kind, count in kills.items() if count)
        sizes.add_argument(
            f"--{size}",
            dest="size",
            action="store_const",
            const=size,
            help=f"{events:,} events: {parts}",
        )
    parser.add_argument("--events", type=int)
    parser.add_argument("--rate", type=float, default=100.0, help="events per second, together")
    parser.add_argument("--event-bytes", type=int, default=0, help="the size of each event's text")
    parser.add_argument(
        "--failures", type=float, help="the share of failing events; 0.01, and 0 with --rolling"
    )
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--consumer-kills", type=int, help="kill -9 of consumers")
    parser.add_argument("--freezes", type=int, help="consumers that are frozen, and thawed late")
    parser.add_argument("--server-kills", type=int, help="kill -9 of the server, and a new start")
    parser.add_argument("--stalls", type=int, help="a server that is frozen, and thawed late")
    parser.add_argument("--outages", type=int, help="a server that is killed, and started late")
    parser.add_argument("--restarts", type=int, help="SIGTERM to consumers in turn, a new start")
    parser.add_argument("--records", type=Path, metavar="DIR", help="keep the records of the run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts as JSON")
    return parser


def _plan(chosen: argparse.Namespace, driver: ChaosDriver) -> ChaosPlan:
    events, kills = SIZES[chosen.size or "full"]
    counts = {
        "consumer": chosen.consumer_kills,
        "freeze": chosen.freezes,
        "server": chosen.server_kills,
        "stall": chosen.stalls,
        "outage": chosen.outages,
        "rolling": chosen.restarts,
    }
    failures = chosen.failures
    if failures is None:
        failures = 0.0 if chosen.size == "rolling" else 0.01
    kills = kills | {kind: count for kind, count in counts.items() if count is not None}
    return ChaosPlan(
        events=chosen.events or events,
        rate=chosen.rate,
        producers=chosen.producers,
        consumers=chosen.consumers,
        kills={kind: count for kind, count in kills.items() if kind not in driver.without},
        event_bytes=chosen.event_bytes,
        failure_share=failures,
    )


def _complaints(driver: ChaosDriver, plan: ChaosPlan, counts: Counts) -> list[str]:
    return counts.complaints(
        durable=driver.durable,
        lossless=driver.keeps_accepted or (plan.kills_nothing and not counts.hung),
        flagged=driver.marks_repeats,
        few_repeats=driver.few_repeats,
        ordered=driver.ordered,
        once=plan.kills_nothing and not plan.failure_share and driver.takes_all_commits,
        unmarked=not driver.counts_unseen,
    )


def _show(driver: ChaosDriver, plan: ChaosPlan, counts: Counts, seconds: float) -> None:
    """Print the counts of one run."""
    kills = ", ".join(f"{count} x {kind}" for kind, count in plan.kills.items() if count)
    print(
        f"{driver.title}: {plan.producers} producers, {plan.consumers} consumers, "
        f"{plan.rate:g} events/s, {kills}, {seconds:.0f} s"
    )
    share = 100 * counts.duplicates / max(1, counts.accepted)
    cpu = (f"{role} {percent:.1f} %" for role, percent in counts.cpu_while_down.items())
    rows = {
        "accepted": f"{counts.accepted:,}",
        "refused": _list(counts.refused.items()),
        "of these processed": _list(counts.perhaps.items()),
        "accepted and lost": len(counts.lost),
        "done again": f"{counts.duplicates} ({share:.1f} %)",
        "of these without a flag": len(counts.unflagged),
        **({"keys": counts.keys, "out of order": len(counts.overtaken)} if driver.ordered else {}),
        **{
            f"recovery, {kind}": f"{median(taken):.1f} s, at most {max(taken):.1f} s"
            for kind, taken in counts.recoveries.items()
        },
        "CPU while down": ", ".join(cpu),
        **({"delivered again": len(counts.flagged)} if counts.stops else {}),
        **({"time to stop": f"at most {max(counts.stops):.1f} s"} if counts.stops else {}),
        "memory of a consumer": f"{counts.peak_mib:.0f} MiB",
        "pending at the end": counts.pending,
        "nothing pending after": f"{counts.settled_in:.1f} s",
        **({"started again, hung": counts.hung} if counts.hung else {}),
        "reports": _list(counts.reports.most_common()),
    }
    for name, value in rows.items():
        print(f"  {name:26}{value}")
    for kind, sample in counts.samples.items():
        print(f"  {kind}: {sample[:200]}")
    for complaint in _complaints(driver, plan, counts):
        print(f"  BROKEN: {complaint}")
    print(f"  the broker itself: {driver.limits}")
    sys.stdout.flush()


def _list(counted: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counted) or "none"


def as_json(counts: Counts, plan: ChaosPlan) -> dict[str, Any]:
    """Return the counts of a run, as the file of `--json` has them."""
    return {
        "kills": dict(plan.kills),
        "accepted": counts.accepted,
        "refused": counts.refused,
        "perhaps": counts.perhaps,
        "lost": counts.lost,
        "duplicates": counts.duplicates,
        "unflagged": counts.unflagged,
        "keys": counts.keys,
        "overtaken": counts.overtaken,
        "pending": counts.pending,
        "recoveries": counts.recoveries,
        "cpu_while_down": counts.cpu_while_down,
        "peak_mib": counts.peak_mib,
        "settled_in": counts.settled_in,
        "hung": counts.hung,
        "flagged": counts.flagged,
        "stops": counts.stops,
        "unclean": counts.unclean,
    }
