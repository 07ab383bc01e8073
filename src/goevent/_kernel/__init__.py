"""The kernel: dispatches events to actors, runs the actors, and accounts for every delivery.

The bus wires the kernel together, and the session opens and closes it. The listeners' room
registers actors; the ports bring in events of other buses and take events out. The kernel knows a
registered listener as an actor, and a driver as the publisher of a route. It must never know a
driver's class, a codec or a socket.

From an event's dispatch to its end:

- `intake`, `dispatcher`, `special_dispatch`: take an event, and bring it to the listeners of its
  route; `inline_calls` and `inline_async` run the inline ones, and `reentrancy` refuses calls from
  inside listeners that could never end (`waits_for_graph`).
- `batch_dispatch`: dispatches the events of a batch, which leave for the driver together.
- `routing`, `route`: the route of each event name.
- `admission`, `backpressure`: put the event into all mailboxes of the route, or have it wait.
- `actor`, `mailbox`: a listener with its events, its lanes and its counters.
- `scheduler`, `worker`, `timeouts`, `context`: run the listeners that have mailboxes.
- `failures`, `recovery`, `supervisor`, `error_log`: count, retry, record and log failed deliveries.
- `ledger`: adds the counters up.

Imports point one way: `mailbox`, `actor`, `backpressure` and `scheduler` know nothing of dispatch.
"""
