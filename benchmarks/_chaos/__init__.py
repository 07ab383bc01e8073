"""Durable events under kills: what was accepted is counted against what was done."""
