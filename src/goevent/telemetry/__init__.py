"""Traces, metrics and health of a bus; the extras `otel` and `prometheus`.

Each module stands for itself and imports its library when it is imported, so the extras are
independent. A bus that uses none of them does not pay for them.
"""
