"""Ports: the connections of an open bus to the outside, that is, to its driver and other threads.

The room owns the inbox, the subscriptions, the publisher with its messages, the way in for other
threads, and the list of sessions that have to learn of a fork. The session opens and closes them.
Arriving events go from a port to the kernel's dispatcher; dispatched events come to the publisher
by its `post`. A port must never know the broker behind the driver.
"""
