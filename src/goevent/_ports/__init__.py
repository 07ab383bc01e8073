"""Ports: what passes between one open bus and the outside, its driver and other threads.

The session opens and closes them. A port hands events to the kernel's intake or takes them out of a
mailbox; it must never know which broker stands behind the driver.
"""
