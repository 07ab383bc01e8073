"""Ports: the ways between one open bus and the outside, that is, its driver and other threads.

The room owns the inbox, the subscriptions, the publisher with its messages, and the way in for
other threads. The session opens and closes them. A port hands arriving events to the kernel's
intake, and takes outgoing events from a mailbox to the driver. It must never know the broker behind
the driver.
"""
