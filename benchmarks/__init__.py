"""Benchmarks of goevent; see README.md."""
