"""The child process: one job of one contender. The last line of its output is the figure, in JSON.

Usage: `python -m benchmarks.brokers.child MODULE JOB BROKER ADDRESS TAG [NUMBER...]`.
"""

import gc
import json
import logging
import sys
import time
from importlib import import_module
from typing import Any

from benchmarks.brokers.contender import Measured, Place
from benchmarks.brokers.floods import FLOODS

READY = "ready"


def _ready() -> None:
    print(READY, flush=True)


def _flood(contender: Any, place: Place, count: int) -> Measured:
    """Make messages, wait for the parent, and send them as fast as the server takes them."""
    payloads = contender.payloads(place, count)
    _ready()
    sys.stdin.readline()
    start = time.perf_counter()
    FLOODS[place.broker](place, payloads, getattr(contender, "CHANNEL", ""))
    return Measured(len(payloads) / (time.perf_counter() - start))


def _run(contender: Any, job: str, place: Place, numbers: list[str]) -> Measured:
    match job, numbers:
        case "flood", [count]:
            return _flood(contender, place, int(count))
        case (("receive" | "listen"), [count]):
            return Measured(getattr(contender, job)(place, int(count), _ready))
        case (("publish" | "batches"), [seconds]):
            return Measured(getattr(contender, job)(place, float(seconds)))
        case (("respond" | "listen_many"), []):
            getattr(contender, job)(place, _ready)
            return Measured(0.0)
        case "ask", [seconds, tasks]:
            return Measured(*contender.ask(place, float(seconds), int(tasks)))
        case (("ask_once" | "wait_for_all"), [seconds]):
            return Measured(*getattr(contender, job)(place, float(seconds)))
        case (("request" | "dispatch" | "stream" | "channel"), [count]):
            return Measured(*getattr(contender, job)(place, int(count)))
        case "publish_alone", [seconds]:
            return Measured(contender.publish(place, float(seconds), 1))
        case "wait_alone", [count]:
            return Measured(*contender.wait(place, int(count), 1))
        case "speak", [count, pause]:
            contender.speak(place, int(count), float(pause))
            return Measured(0.0)
        case "traverse", [count]:
            return Measured(*contender.traverse(place, int(count)))
        case (("consume" | "wait" | "batch" | "connections" | "name_bytes"), [count]):
            return Measured(*getattr(contender, job)(place, int(count)))
        case _:
            raise ValueError(f"no such job: {job} {numbers}")


def main(module: str, job: str, broker: str, addr: str, tag: str, *numbers: str) -> None:
    """Do a job and print its figure.

    The garbage collector is on. The objects of the imports are frozen, so it never visits them.
    """
    logging.disable()
    contender = import_module(f"benchmarks.brokers.{module}")
    gc.collect()
    gc.freeze()
    measured = _run(contender, job, Place(broker, addr, tag), list(numbers))
    print(json.dumps(measured._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
