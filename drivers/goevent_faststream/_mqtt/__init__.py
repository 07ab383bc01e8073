"""MQTT: every bus gets every event; in a group, a shared subscription gives it to one of its buses.

`adapter` is the entry: the table of brokers loads it by name, and the loop side of the bridge calls
its adapter on the asyncio loop. `connection` keeps one client at a time, `keep_alive` watches it,
and `transport` stops its reading while the bus is full. `filters` decides which filters cover the
names of the bus, and `subscriptions` requests them. `arrivals` has the messages that wait, and
recognises those that the server sends again. `topics` translates names, and `publisher` sends.
`limits` has the limits that the server announces, and `reason_codes` its refusals in words. Nothing
in this room knows Trio, listeners or envelopes.
"""
