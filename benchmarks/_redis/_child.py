"""One process: one contender, one thing to do. The last line of its output is the figure."""

import gc
import json
import sys
from importlib import import_module
from typing import Any

from benchmarks._redis import _flood, _names
from benchmarks._redis._contender import report

READY = "ready"


def _ready() -> None:
    print(READY, flush=True)


def main(module: str, job: str, address: str, *numbers: str) -> None:
    """Do a job; the garbage collector is on, and has nothing old to look at."""
    if job == "names":
        connections, size = _names.measure(address)
        print(json.dumps({"figure": size, "connections": connections}))
        return
    contender: Any = import_module(f"benchmarks._redis.{module}")
    gc.collect()
    gc.freeze()
    match job:
        case "flood":
            channel, payloads = contender.payloads(int(numbers[0]))
            _ready()
            sys.stdin.readline()
            _flood.flood(address, channel, payloads)
        case "receive":
            report(contender.receive(address, int(numbers[0]), _ready))
        case "publish":
            report(contender.publish(address, float(numbers[0])))
        case "listen":
            report(contender.listen(address, int(numbers[0]), _ready))
        case "speak":
            contender.speak(address, int(numbers[0]), float(numbers[1]))
        case _:
            raise ValueError(f"no such job: {job}")


if __name__ == "__main__":
    main(*sys.argv[1:])
