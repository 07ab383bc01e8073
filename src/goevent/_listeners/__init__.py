"""Listeners: turns a user's function or object into an actor, and keeps the listeners of one bus.

`GoEvent` calls this room when a listener is registered or unregistered. The room decides once, at
registration, which steps a run of a listener consists of. It must never know how events are
dispatched or published: it hands finished actors to the router and tells the intake when a listener
leaves.
"""
