"""The brokers of the chaos run: one module for each, and the table of drivers.

The run starts, kills and freezes a broker's process and asks the broker itself how much is left to
do. It knows no broker; each module here knows one.
"""
