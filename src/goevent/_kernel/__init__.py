"""The kernel: actors and mailboxes, the scheduler that runs them, dispatch, and failures.

The bus and its session wire these parts together; the ports bring events in and take them out. The
kernel knows one registered listener as an actor. It must never know a driver, a codec or a socket.
"""
