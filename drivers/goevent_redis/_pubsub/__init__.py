"""The pub/sub driver: every bus gets every event, at most once, and losses are reported.

It owns the channels and patterns, the sequence numbers of published messages, the detection of gaps
and the queue of received messages. The bus runs it as a `goevent.drivers.Driver`. It sends and
receives through the link, and must never know streams or consumer groups.
"""
