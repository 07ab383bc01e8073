"""The portal: a bus in a thread of its own, for programs that do not run on Trio.

`Portal` owns the thread, the run loop of Trio in it and the open bus. Threads and asyncio tasks of
the program call its methods. It ends with its `with` or `async with` block.

- `_portal`: `Portal`, which opens and closes the bus, and `portal`, which makes one.
- `_thread`: the thread, as callers outside of it see it.
- `_queue`: the events and calls on their way into the thread.
- `_pump`: the task that takes them from the queue and dispatches the events in order.
- `_call`: a function that runs in the thread for a caller outside.
- `_handle`: `PortalHandle`, the progress of an event.
- `_waiters`: the threads and asyncio tasks that wait for a handle.

Theory of operation. A call from outside appends to one queue. If no wake-up is under way, it also
wakes the *pump*, a task of the portal's nursery. So many events cost one wake-up. The pump takes
them in order, and never waits: an event that has to wait, for room in a mailbox for example, gets a
task of its own. Later events of the same name then queue behind that task, so they keep their
order, and an event of another name does not wait for them. A batch always gets a task. It begins
once it is the first one in the queue of each of its names. The end of an event is noted by its
handle in Trio's thread, without a task. Waiting threads are woken by an event of `threading`, and
the futures of one asyncio loop together, with one call of `call_soon_threadsafe`.

anyio's blocking portal does not serve here. It starts a task for each call, and Trio runs new tasks
in random order, so the events of one thread would not keep their order. Its caller waits for the
start of that task, which blocks an asyncio loop. After a fork, a call in the child waits forever.

Locks. `BusThread.lock` protects what both sides use. It is held for a few steps, and never while
other code runs, except signal handlers: they may dispatch, so the lock is reentrant. A fork may
copy it while it is held. So every method looks for a fork first.

This room must never know how a dispatch works.
"""

from ..drivers import publish_names
from ._handle import PortalHandle as PortalHandle
from ._portal import Portal as Portal, portal as portal
from ._queue import MAX_WAITING_EVENTS as MAX_WAITING_EVENTS

__all__ = ["MAX_WAITING_EVENTS", "Portal", "PortalHandle", "portal"]
publish_names(globals())
