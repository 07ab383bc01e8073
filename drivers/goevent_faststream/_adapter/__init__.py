"""The contract with the adapters of brokers, and everything that they share.

`contract` is the interface between the bridge and an adapter. The other modules are for adapters:
message formats, the state of a connection and its tasks, errors, middlewares, dead letters. Nothing
here knows one broker's client, and nothing here knows Trio.
"""
