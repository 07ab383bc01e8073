"""Options: the values with which users configure listeners, and the checks of these values.

The room owns listener options, retries, supervision, middleware and the signatures of listeners,
with their permission for Ctrl-C, and the messages for objects that are no listener or no event. The
configuration, the kernel and the listeners' room read these values. All checks run once, at
registration, except `results`, which looks at the results of calls. The room must never know an
actor, a mailbox or a worker.
"""
