"""The child process: takes one figure and prints it, as JSON, on its last line.

Usage: `python -m benchmarks.core.child [--quick] [--source DIRECTORY] WORKLOAD CONTENDER`.
"""

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.core.contenders import BY_NAME
from benchmarks.core.measure import FULL, QUICK
from benchmarks.core.scenario import NotAvailable
from benchmarks.core.workloads.table import BY_ID


def _pin_to_one_core() -> None:
    # Threads that pass the GIL between cores cost more than on one core. Pinning favours the peers
    # with threads, and keeps moves between cores out of all figures.
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _wrong_source(package: str, source: Path) -> str | None:
    """Return an error text if the package was not imported from below `source`."""
    file = import_module(package).__file__
    if file is not None and Path(file).resolve().is_relative_to(source.resolve()):
        return None
    return f"{package} was imported from {file}, not from {source}"


def main() -> None:
    """Run one pair and print `{"figure": ns or bytes}`, or the reason why there is none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("contender")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--source", type=Path)
    arguments = parser.parse_args()
    workload, contender = BY_ID[arguments.workload], BY_NAME[arguments.contender]
    quick: bool = arguments.quick
    # An editable install must not be measured instead, even if it comes before PYTHONPATH.
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
