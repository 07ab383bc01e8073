"""Limits of real time in tests. They end a test that hangs and prove no speed.

A busy machine stays far below them.
"""

HANG_SECONDS = 100.0
"""The limit of a block that ends soon unless the code under test hangs."""

PROMPT_SECONDS = 20.0
"""The limit of a reaction that must not wait for a timeout of 30 seconds, as `claim_idle` is."""

PUBLISH_SECONDS = 2.0
"""The time in which a broker answers a publish. Cases about a lost broker wait it out."""

SUBPROCESS_SECONDS = 500
"""The limit of a process that runs a program, a checker or other tests."""
