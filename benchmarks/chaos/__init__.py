"""Chaos: producers and consumers are killed under load, and a ledger counts every event."""
