"""The child process: takes one figure and prints it, as JSON, on its last line.

Usage: `python -m benchmarks._run_one WORKLOAD CONTENDER [--quick]`.
"""

import json
import os
import sys

from benchmarks._contenders import BY_NAME
from benchmarks._measure import FULL, QUICK
from benchmarks._workloads import BY_ID


def _pin_to_one_core() -> None:
    # Threads that hand the GIL to and fro between cores cost more than on one: pinning is in
    # favour of the peers with threads, and takes the scheduler's moves out of all figures.
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    """Run one pair and print `{"figure": ns or bytes}`."""
    workload, contender = BY_ID[sys.argv[1]], BY_NAME[sys.argv[2]]
    quick = "--quick" in sys.argv[3:]
    size = workload.quick_size if quick and workload.quick_size else workload.size
    _pin_to_one_core()
    figure = contender.run(workload, size, QUICK if quick else FULL)
    print(json.dumps({"figure": figure}))


if __name__ == "__main__":
    main()
