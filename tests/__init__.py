"""The tests: one folder per subject, shared helpers in `support`."""
