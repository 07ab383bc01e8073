"""The conformance suite for drivers: the cases, and the stage on which they play."""
