"""The workloads of the suite within one process: their tables, and goevent's loops."""
