"""Partitions: order per key for Redis Streams, by a lease on each partition of a stream.

The Streams driver uses these parts in place of competing reads when `partitions` is set. A lease is
fenced: a consumer that has lost it can neither read, acknowledge nor publish into its partition.
"""
