"""`python -m benchmarks`: measure goevent beside its peers, or beside an earlier commit of it."""

import argparse
import sys
import time
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

HOW_TO_INSTALL = 'pip install -e ".[bench]"'

if find_spec("rich") is None:
    sys.exit(f"The benchmarks need the package rich. Install all they use: {HOW_TO_INSTALL}")

from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: E402

from benchmarks._against import Comparison, NoSuchSources, unpacked  # noqa: E402
from benchmarks._brokers._suite import main as brokers  # noqa: E402
from benchmarks._chaos._run import main as chaos  # noqa: E402
from benchmarks._redis._suite import run as redis_suite  # noqa: E402
from benchmarks._report import missing_peers, show, show_against, write_json  # noqa: E402
from benchmarks._runner import Results, Selection, WrongSource, run, select  # noqa: E402
from benchmarks._streams._suite import main as streams  # noqa: E402
from benchmarks._workloads import WORKLOADS  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT_ROUNDS = 5


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure goevent beside its peers."
    )
    parser.add_argument("suite", nargs="?", choices=["kernel", "redis"], default="kernel")
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
        help="also write JSON (default file: benchmarks/results/<suite>-<time>.json)",
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
    if sys.argv[1:2] == ["chaos"]:
        return chaos(sys.argv[2:])
    if sys.argv[1:2] == ["streams"]:
        return streams(sys.argv[2:])
    if sys.argv[1:2] == ["brokers"]:
        return brokers(sys.argv[2:])
    arguments, console = _arguments(), Console()
    if not console.is_terminal:
        # In a file or a CI log there is no edge to wrap at.
        console = Console(width=132)
    if arguments.suite == "redis":
        return redis_suite(console, rounds=_rounds(arguments), quick=arguments.quick)
    if arguments.against is None:
        return _measure(arguments, console, None)
    try:
        with unpacked(arguments.against) as comparison:
            return _measure(arguments, console, comparison)
    except (NoSuchSources, WrongSource) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2


def _rounds(arguments: argparse.Namespace) -> int:
    return max(1, arguments.rounds or (1 if arguments.quick else DEFAULT_ROUNDS))


def _measure(arguments: argparse.Namespace, console: Console, comparison: Comparison | None) -> int:
    quick: bool = arguments.quick
    rounds = _rounds(arguments)
    selection = select(arguments.only, quick=quick)
    if comparison is not None:
        selection = comparison.of(selection)
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
        what = f"against-{comparison.commit}-" if comparison else ""
        path = Path(arguments.json or RESULTS / f"{arguments.suite}-{what}{stamp}.json")
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
