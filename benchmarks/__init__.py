"""Measures goevent beside its peers: `python -m benchmarks`."""
