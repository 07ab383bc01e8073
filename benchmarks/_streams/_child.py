"""One workload of one contender, in a process of its own; prints what an event has cost."""

import logging
import sys
from importlib import import_module

if __name__ == "__main__":
    logging.disable()
    contender, workload, addr, count = sys.argv[1:]
    module = import_module(f"benchmarks._streams._{contender}")
    measured = module.run(getattr(module, workload), addr, int(count))
    sys.stdout.write(f"{measured.rate} {measured.cpu}\n")
