"""Benchmarks of traces and metrics."""
