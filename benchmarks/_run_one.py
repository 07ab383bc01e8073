"""The child process: takes one figure and prints it, as JSON, on its last line.

Usage: `python -m benchmarks._run_one [--quick] [--source DIRECTORY] WORKLOAD CONTENDER`.
"""

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks._contenders import BY_NAME
from benchmarks._measure import FULL, QUICK
from benchmarks._scenario import NotAvailable
from benchmarks._workloads import BY_ID


def _pin_to_one_core() -> None:
    # Threads that hand the GIL to and fro between cores cost more than on one: pinning is in
    # favour of the peers with threads, and takes the scheduler's moves out of all figures.
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _wrong_source(package: str, source: Path) -> str | None:
    """Say where the package was imported from, unless that is below `source`."""
    file = import_module(package).__file__
    if file is not None and Path(file).resolve().is_relative_to(source.resolve()):
        return None
    return f"{package} was imported from {file}, not from {source}"


def main() -> None:
    """Run one pair and print one of `{"figure": ns or bytes}` and two sorts of reasons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("contender")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--source", type=Path)
    arguments = parser.parse_args()
    workload, contender = BY_ID[arguments.workload], BY_NAME[arguments.contender]
    quick: bool = arguments.quick
    # An editable install, or what it may have put before PYTHONPATH, must not be measured instead.
    if arguments.source and (found := _wrong_source(contender.name, arguments.source)):
        print(json.dumps({"wrong_source": found}))
        return
    _pin_to_one_core()
    try:
        figure = contender.run(workload, workload.size_at(quick=quick), QUICK if quick else FULL)
    except NotAvailable as reason:
        print(json.dumps({"not_available": str(reason)}))
    else:
        print(json.dumps({"figure": figure}))


if __name__ == "__main__":
    main()
