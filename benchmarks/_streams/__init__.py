"""Durable events beside their peers: the same server, the same events, in one run."""
