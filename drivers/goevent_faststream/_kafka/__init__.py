"""Kafka: one adapter over two clients, aiokafka and confluent-kafka.

The room owns the connection, the consumers with their offsets, the publisher and the settler. The
loop side of the bridge calls `adapter`. Two modules each make the adapter for a client,
`aiokafka_client` and `confluent_client`; all modules except these two, their members and their
errors know only the protocols of `client`. The room must never know Trio, listeners or envelopes.
"""
