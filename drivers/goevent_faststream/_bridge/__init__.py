"""The bridge: it runs an asyncio loop in a thread of its own, under Trio.

The driver calls the Trio side. The adapter of a broker and its client live on the loop side. The
bridge knows the adapter's contract; it must never know which broker the client talks to.

Theory of operation
-------------------

Two threads run while a bus is open: Trio's, and one for the asyncio loop. `loop_thread` owns the
second and runs single coroutines on its loop: connect, subscribe, disconnect. Events do not travel
that way, because each such call wakes a thread, and a wake-up costs more than all other work for an
event. They travel through two queues, `to_trio` and `to_loop`, and the receiving thread is woken
once for a burst of items.

Neither thread ever waits for the other while it holds a lock. The Trio side appends to `to_loop`
and never blocks; the bound is the publisher's limit of events in flight. The loop side appends to
`to_trio` and never blocks; the bound is `prefetch`, which `loop_side` counts: an adapter that
delivers more waits in its own task, on the loop, until the Trio side has settled an arrival. This
wait is the back-pressure on the broker. On the Trio side, arrivals and notices (replies and
reports) have a queue and a task each, so that a listener's full mailbox stops arrivals and not the
replies to publishes, on which that listener may wait. Direct messages have a queue and a task of
their own for the same reason.

The loop thread ends last. When the bus closes, the Trio side releases the arrivals that no listener
has. It waits, within a deadline, until the adapter has settled the events at the broker and has
disconnected. Only then does it stop the loop.
"""
