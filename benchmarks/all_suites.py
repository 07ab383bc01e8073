"""`python -m benchmarks all`: run every suite but the chaos, and write the figures into the docs.

Each suite is a process of its own and writes its JSON into `benchmarks/results`. With
`--write-docs` the README, the docs and the charts get the new figures of all suites at once, but
only if no suite failed.
"""

import argparse
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from benchmarks.report import pages

RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT_ROUNDS = 3


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a suite failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks all",
        description=f"Run the suites {', '.join(pages.SUITES)} one after another.",
    )
    parser.add_argument("--quick", action="store_true", help="smoke test of every suite")
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, help="of each suite (default %(default)s)"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="write the figures into README, docs and charts"
    )
    chosen = parser.parse_args(arguments)
    if chosen.quick and chosen.write_docs:
        parser.error("the figures of --quick mean too little to be shown")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    RESULTS.mkdir(exist_ok=True)
    files: list[str] = []
    failed: list[str] = []
    for suite in pages.SUITES:
        path = RESULTS / f"{suite}-{stamp}.json"
        effort = ["--quick"] if chosen.quick else ["--rounds", str(chosen.rounds)]
        print(f"\n== {suite}", flush=True)
        started = time.monotonic()
        command = [sys.executable, "-m", "benchmarks", suite, *effort, "--json", str(path)]
        code = subprocess.run(command, check=False).returncode
        print(f"{suite}: {time.monotonic() - started:.0f} s, exit code {code}", flush=True)
        if code:
            failed.append(suite)
        files += [f"--{suite}", str(path)]
    by_hand = f"python -m benchmarks docs {' '.join(files)}"
    if failed:
        print(f"\nFailed: {', '.join(failed)}. The docs are as before; to write them: {by_hand}")
        return 1
    if chosen.write_docs:
        return pages.main(files)
    print(f"\nTo write the figures into the docs: {by_hand}")
    return 0
