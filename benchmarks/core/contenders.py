"""The contenders: the work that each leaves out, and the workloads that it cannot run.

Nothing here imports a peer: the parent process needs only this table. A contender runs every kind
of workload that `cannot` does not name, so each blank in the report has its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias, cast, get_args

from benchmarks.core.measure import Effort
from benchmarks.core.scenario import Scenario
from benchmarks.core.workloads.table import OWN, Kind, Workload

Blanks: TypeAlias = Mapping[Kind, str]


@dataclass(frozen=True)
class Contender:
    """One library, or one way to use it, or hand-written code without a library.

    Args:
        name: The row's heading.
        module: The module below `benchmarks` whose `SCENARIOS` are run.
        distribution: The package that must be installed; None if nothing more than Trio is.
        note: The limits of the contender, for a fair reading.
        cannot: The kinds without a figure, each with the reason.
        quick: Whether the smoke test includes it.
        source: The directory that it must be imported from; None for the installed one.
    """

    name: str
    module: str
    distribution: str | None
    note: str
    cannot: Blanks = field(default_factory=dict)
    quick: bool = False
    source: Path | None = None

    def runs(self, workload: Workload) -> bool:
        """Return whether there is a figure for this workload."""
        allowed = workload.contenders
        return workload.kind not in self.cannot and (allowed is None or self.name in allowed)

    def installed_version(self) -> str | None:
        """Return the package's version; None where it is missing or not needed."""
        if self.distribution is None:
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def is_missing(self) -> bool:
        """Return whether its package is not installed."""
        return self.distribution is not None and find_spec(self.distribution) is None

    def run(self, workload: Workload, size: int, effort: Effort) -> float:
        """Import the contender and take one figure."""
        module = import_module(f"benchmarks.{self.module}")
        scenarios = cast("Mapping[Kind, Scenario]", module.SCENARIOS)
        return scenarios[workload.kind](size, effort)


def _because(reason: str, *kinds: Kind) -> dict[Kind, str]:
    return dict.fromkeys(kinds, reason)


_ALL: tuple[Kind, ...] = get_args(Kind)
_ASYNC: tuple[Kind, ...] = ("wait", "suspend", "drain", "queued", "queued_shared")
_IDLE: tuple[Kind, ...] = ("idle_names", "idle_one_name")
_SYNC: tuple[Kind, ...] = ("sync", "raises")
_NAMES: tuple[Kind, ...] = ("names", "few_names")

_OWN = _because("a distinction that only goevent makes", *OWN)
_BY_HAND = _because("by hand, async only", *_SYNC, *_NAMES, "idle_names", "come_and_go")
_NOT_NAMED = _because("has no table of event names", *_NAMES)


def _only(*kinds: Kind, reason: str) -> dict[Kind, str]:
    return {kind: reason for kind in _ALL if kind not in kinds}


CONTENDERS: tuple[Contender, ...] = (
    Contender("goevent", "core.workloads.goevent", "goevent", "The subject.", quick=True),
    Contender(
        "pyee",
        "core.peers.pyee",
        "pyee",
        "No handle, no mailbox: async listeners become one asyncio task per event, unbounded and "
        "unordered. A sync listener's exception goes to the caller and skips the other listeners. "
        "Sync: EventEmitter; async: AsyncIOEventEmitter. It cannot tell when one event's "
        "listeners are done, so the listeners count down and set an asyncio.Event (its own "
        "wait_for_complete() waits for everything and is slower).",
        cannot={
            **_OWN,
            **_because("keeps a listener once per name", "idle_one_name"),
        },
        quick=True,
    ),
    Contender(
        "pyee-trio",
        "core.peers.pyee_trio",
        "pyee",
        "As pyee, with TrioEventEmitter: one Trio task per event and listener, no order, no bound.",
        cannot={
            **_OWN,
            **_because("as pyee", *_SYNC, *_NAMES, *_IDLE, "come_and_go"),
        },
    ),
    Contender(
        "psygnal",
        "core.peers.psygnal",
        "psygnal",
        "Compiled with mypyc. asyncio backend, its fastest. No handle and no mailbox per listener: "
        "ONE queue and ONE task run all async listeners of the process one after another, so that "
        "a slow one holds up every other. Exceptions of async listeners are printed. Completion "
        "is learned by a countdown in the listeners that sets an asyncio.Event.",
        cannot={**_OWN, **_NOT_NAMED, **_because("has no event names", "idle_names")},
        quick=True,
    ),
    Contender(
        "psygnal-future",
        "core.peers.psygnal_future",
        "psygnal",
        "As psygnal, but completion is a bare asyncio.Future: the least that a user could write.",
        cannot=_only("wait", "suspend", reason="as psygnal"),
    ),
    Contender(
        "psygnal-trio",
        "core.peers.psygnal_trio",
        "psygnal",
        "As psygnal, with its Trio backend and a trio.Event.",
        cannot=_only("wait", "suspend", "drain", "queued", "queued_shared", reason="as psygnal"),
    ),
    Contender(
        "blinker",
        "core.peers.blinker",
        "blinker",
        "No handle, no queue, no order among listeners. send_async() awaits the listeners one "
        "after another inside the caller: nothing is decoupled, a slow listener stops the sender, "
        "an exception skips the listeners behind it. That is why it costs so little.",
        cannot={
            **_OWN,
            **_because("awaits listeners inline: nothing can be queued", "drain"),
            **_because("awaits listeners inline: nothing is queued", "queued", "queued_shared"),
            **_because("keeps a listener once per signal", "idle_one_name"),
        },
    ),
    Contender(
        "pykka",
        "core.peers.pykka",
        "pykka",
        "Actors with a mailbox each, but every actor is an OS thread, addressed directly: there "
        "are no events and no fan-out, the benchmark loops over the actors. Mailboxes are "
        "unbounded. Completion: ask() for every actor and its future.",
        cannot={
            **_OWN,
            **_NOT_NAMED,
            **_because("an actor is never called inline", *_SYNC),
            **_because("an actor that starts or stops is a thread", "come_and_go"),
            **_because("its listeners block a thread, they do not suspend", "suspend"),
            **_because("10,000 idle listeners would be 10,000 threads", *_IDLE),
        },
        quick=True,
    ),
    Contender(
        "aiopubsub",
        "core.peers.aiopubsub",
        "aiopubsub",
        "A queue per async listener, unbounded, and a new asyncio task for each message. No "
        "handle (countdown and asyncio.Event, as for pyee). Exceptions of sync listeners are "
        "logged, one of an async listener ends that listener.",
        cannot={
            **_OWN,
            **_because("keeps a listener once per key", "idle_one_name"),
            **_because("scans all names at each subscription: quadratic", *_NAMES),
            **_because("removes a listener in a coroutine", "come_and_go"),
        },
    ),
    Contender(
        "aiopubsub-hub",
        "core.peers.aiopubsub_hub",
        "aiopubsub",
        "As aiopubsub, but Hub.publish() instead of the documented Publisher.publish(): a dict's "
        "entry and a loop of calls, each in a try. Its fastest.",
        cannot=_only("sync", "raises", "wait", "drain", reason="as aiopubsub"),
    ),
    Contender(
        "lahja",
        "core.peers.lahja",
        "lahja",
        "Inter-process bus, here with no other endpoint connected. No mailbox; broadcast() awaits "
        "async listeners with asyncio.gather, a new task each; broadcast_nowait() is a task per "
        "event, unbounded. Exceptions of sync listeners are swallowed into the debug log. It "
        "refuses an event that was sent before: in its favour the loop clears the event's "
        "is_bound flag instead of making a new event (that would be 150 ns more), except for "
        "fire and forget, where each needs its own.",
        cannot={
            **_OWN,
            **_because("one class per name: not measured", *_NAMES, "idle_names"),
            **_because("refuses to send one event twice", "queued_shared"),
        },
        quick=True,
    ),
    Contender(
        "lahja-internal",
        "core.peers.lahja_internal",
        "lahja",
        "As lahja, with BroadcastConfig(internal=True), which skips the other endpoints: its "
        "fastest, for use within one process.",
        cannot=_only("sync", "wait", "suspend", reason="as lahja"),
    ),
    Contender(
        "bubus",
        "core.peers.bubus",
        "bubus",
        "Pydantic events with results. Every event needs a new object (counted). One lock "
        "serialises all buses of the process; more than 100 pending events are refused. Has a "
        "handle (the event). Its history is set to one event, because each dispatch scans it.",
        cannot={
            **_OWN,
            **_because("runs sync listeners in its queue, never inline", *_SYNC, *_NAMES),
            **_because("has no way to remove a listener", "come_and_go"),
            **_because("refuses more than 100 pending events", "queued", "queued_shared"),
            **_because(
                "needs a new function for each listener, as it warns about equal names", *_IDLE
            ),
        },
    ),
    Contender(
        "abxbus",
        "core.peers.abxbus",
        "abxbus",
        "The successor of bubus. Every event needs a new object (counted). Its history and its "
        "time-outs are switched off: with them an event takes twice as long. Has a handle (the "
        "event), and runs one event of a bus at a time.",
        cannot={
            **_OWN,
            **_because(
                "runs sync listeners in its queue, never inline", *_SYNC, *_NAMES, "come_and_go"
            ),
            **_because("as bubus: not measured", "queued", "queued_shared"),
            **_because(
                "needs a new function for each listener, as it warns about equal names", *_IDLE
            ),
        },
    ),
    Contender(
        "bare calls",
        "core.peers.calls",
        None,
        "The floor: a Python loop that calls the functions of a list (or of a dict's entry). "
        "Nothing else.",
        cannot={
            **_OWN,
            **_because("no async at all", *_ASYNC, *_IDLE),
            **_because("a list of functions", "come_and_go"),
        },
    ),
    Contender(
        "asyncio-queue",
        "core.peers.asyncio_queue",
        None,
        "By hand: one asyncio task and one unbounded asyncio.Queue per listener, a countdown and a "
        "Future. No errors, no handle, no ledger, no names.",
        cannot={**_OWN, **_BY_HAND},
    ),
    Contender(
        "trio-channel",
        "core.peers.trio_channel",
        None,
        "By hand: one Trio task and one unbounded memory channel per listener, a countdown and a "
        "trio.Event. No errors, no handle, no ledger, no names.",
        cannot={**_OWN, **_BY_HAND},
    ),
    Contender(
        "trio-tasks",
        "core.peers.trio_tasks",
        None,
        "By hand, the least possible on Trio: one task and one deque per listener, parked and "
        "woken by trio.lowlevel, a countdown that wakes the caller. No errors, no handle, no "
        "ledger, no names, no safe cancellation.",
        cannot={**_OWN, **_BY_HAND},
        quick=True,
    ),
)
BY_NAME: dict[str, Contender] = {contender.name: contender for contender in CONTENDERS}
