"""One process: one contender, one thing to do. The last line of its output is the figure."""

import gc
import json
import logging
import sys
import time
from importlib import import_module
from typing import Any

from benchmarks._brokers import _flood
from benchmarks._brokers._contender import Scene
from benchmarks._brokers._places import PLACES

READY = "ready"


def _ready() -> None:
    print(READY, flush=True)


def main(module: str, job: str, number: str, *scene: str) -> None:
    """Do a job; the garbage collector is on, and has nothing old to look at."""
    logging.disable()
    contender: Any = import_module(f"benchmarks._brokers.{module}")
    at = Scene(*scene)
    gc.collect()
    gc.freeze()
    match job:
        case "flood":
            payloads = contender.payloads(at, int(number))
            _ready()
            sys.stdin.readline()
            start = time.perf_counter()
            _flood.FLOODS[PLACES[at.broker].flood](at, payloads)
            figure = len(payloads) / (time.perf_counter() - start)
        case "receive":
            figure = contender.receive(at, int(number), _ready)
        case "publish":
            figure = contender.publish(at, float(number))
        case _:
            raise ValueError(f"no such job: {job}")
    print(json.dumps({"figure": figure}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
