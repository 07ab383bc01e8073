"""NATS: core NATS, where every bus gets every event, and JetStream, which stores them for groups.

`core` and `jetstream` each hold one adapter over the shared `connection`, which hands refusals of
the server to their requests (`refusals`); `subjects` translates names. The other modules serve
JetStream: its stream, its publisher, its pull consumers, the settlement of messages, the counts of
released deliveries, and its dead letters.
The table of brokers loads `core` and `jetstream` by name, and the loop side of the bridge calls
their adapters on the asyncio loop. Nothing in this room knows Trio, listeners or envelopes.
"""
