"""Listeners: turns a user's function or object into an actor, and keeps the actors of one bus.

The bus calls this room when a listener comes or goes. It decides once, at registration, what a run
of a listener consists of. It must never know how events are dispatched or published.
"""
