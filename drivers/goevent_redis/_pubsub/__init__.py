"""The pub/sub driver: fan-out to every bus, at most once, with losses counted and reported.

The bus runs it as a `goevent.drivers.Driver`. It sends and receives through the link, and knows
nothing of streams or consumer groups.
"""
