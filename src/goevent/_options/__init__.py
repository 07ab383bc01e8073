"""Options: the values with which users configure listeners, and the checks of these values.

The room owns listener options, retries, supervision, middleware and the signatures of listeners,
with their permission for Ctrl-C. The configuration, the kernel and the listeners' room read these
values. All checks run once, at registration. The room must never know an actor, a mailbox or a
worker.
"""
