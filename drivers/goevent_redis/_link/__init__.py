"""The link: a multiplexed connection to one Redis server, on Trio.

The drivers of this package publish, subscribe and run commands through it. It reconnects by itself.
It speaks RESP and must never know what an event is: nothing here imports goevent.
"""
