"""`python -m benchmarks`: measure goevent beside its peers, or beside an earlier commit of it.

Without a suite it measures goevent within one process. The suites in `SUITES` have command lines
of their own.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HOW_TO_INSTALL = 'pip install -e ".[bench]"'

if find_spec("rich") is None:
    sys.exit(f"The benchmarks need the package rich. Install all they use: {HOW_TO_INSTALL}")

from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: E402

from benchmarks.core.against import Comparison, NoSuchSources, unpacked  # noqa: E402
from benchmarks.core.runner import Results, Selection, WrongSource, run, select  # noqa: E402
from benchmarks.core.workloads.table import WORKLOADS  # noqa: E402
from benchmarks.report.brokers import report_console  # noqa: E402
from benchmarks.report.core import missing_peers, show, show_against  # noqa: E402
from benchmarks.report.core_json import write_json  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT_ROUNDS = 5

SUITES = {
    "redis": "benchmarks.brokers.pubsub.suite",
    "streams": "benchmarks.brokers.streams.suite",
    "brokers": "benchmarks.brokers.faststream.suite",
    "telemetry": "benchmarks.brokers.telemetry.suite",
    "conversations": "benchmarks.brokers.conversations.suite",
    "codec": "benchmarks.codec.suite",
    "chaos": "benchmarks.chaos.command",
    "portal": "benchmarks.portal.suite",
    "scrape": "benchmarks.telemetry.scrape",
    "web": "benchmarks.web.suite",
    "docs": "benchmarks.report.pages",
    "all": "benchmarks.all_suites",
}
"""The suites with a command line of their own, each with the module of its `main`."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure goevent beside its peers.",
        epilog=f"Further suites: {', '.join(SUITES)}. Each has --help.",
    )
    parser.add_argument("suite", nargs="?", choices=["kernel"], default="kernel")
    parser.add_argument("--quick", action="store_true", help="smoke test: all workloads, briefly")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {DEFAULT_ROUNDS})")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="glob over workloads ('sync-*'), contenders ('goevent') or both ('wait-*:psygnal*')",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="",
        metavar="FILE",
        help="also write JSON (default file: benchmarks/results/kernel-<time>.json)",
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="no peers: goevent of the working tree beside goevent of this commit",
    )
    parser.add_argument("--list", action="store_true", help="list workloads and contenders")
    return parser.parse_args()


def main() -> int:
    """Run the command line; the exit code is 1 if a measuring process failed."""
    if sys.argv[1:] and (module := SUITES.get(sys.argv[1])) is not None:
        suite: Callable[[list[str]], int] = import_module(module).main
        return suite(sys.argv[2:])
    arguments, console = _arguments(), report_console()
    if arguments.against is None:
        return _measure(arguments, console, None)
    try:
        with unpacked(arguments.against) as comparison:
            return _measure(arguments, console, comparison)
    except (NoSuchSources, WrongSource) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2


def _measure(arguments: argparse.Namespace, console: Console, comparison: Comparison | None) -> int:
    quick: bool = arguments.quick
    rounds = max(1, arguments.rounds or (1 if quick else DEFAULT_ROUNDS))
    selection = select(arguments.only, quick=quick)
    if comparison is not None:
        selection = comparison.select(selection)
    elif missing := missing_peers():
        console.print(f"[yellow]Not installed, left out: {', '.join(missing)}.[/]")
        console.print(f"Install all peers: {HOW_TO_INSTALL}", markup=False)
    if not selection:
        names = ", ".join(workload.id for workload in WORKLOADS)
        console.print(f"Nothing matches {arguments.only!r}. Workloads: {names}", markup=False)
        return 2
    if arguments.list:
        for workload, contenders in selection:
            console.print(f"{workload.id}: {', '.join(contender.name for contender in contenders)}")
        return 0

    total = sum(
        min(rounds, workload.max_rounds or rounds) * len(contenders)
        for workload, contenders in selection
    )
    started = time.monotonic()
    results = _run(selection, console, rounds=rounds, quick=quick, total=total)
    if comparison is None:
        show(console, results, rounds=rounds, quick=quick)
    else:
        show_against(console, results, comparison, rounds=rounds, quick=quick)
    console.print(f"\n{total} processes, {time.monotonic() - started:.0f} s")
    if arguments.json is not None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        infix = f"against-{comparison.commit}-" if comparison else ""
        path = Path(arguments.json or RESULTS / f"{arguments.suite}-{infix}{stamp}.json")
        write_json(path, results, rounds=rounds, quick=quick, comparison=comparison)
        console.print(f"JSON: {path}", soft_wrap=True, markup=False)
    return 1 if results.failures else 0


def _run(
    selection: Selection, console: Console, *, rounds: int, quick: bool, total: int
) -> Results:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)

        def advance(label: str) -> None:
            bar.update(task, description=label, advance=1)

        return run(selection, rounds=rounds, quick=quick, advance=advance)


if __name__ == "__main__":
    sys.exit(main())
