"""RabbitMQ: without a group every bus gets every event; with one, durable queues share them out.

`adapter` is the entry: the table of brokers loads it by name, and it chooses between `fan_out` and
`work_queues`. The loop side of the bridge calls the chosen adapter on the asyncio loop. Both
adapters use `connection` with its two `link`s, `topology`, `publisher` with its `publish_channel`,
`receiver`, and `repairs`, which makes lost exchanges, queues and bindings again; `settler` serves
only `work_queues`. Nothing in this room knows Trio, listeners or envelopes.
"""
