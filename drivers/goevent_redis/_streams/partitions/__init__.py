"""Partitions: order per key for Redis Streams, by a lease on each partition of a stream.

The consumer wires these parts in place of competing reads when `StreamsConfig.partitions` is above
1. The room owns the leases of this bus, the order of each key, and the reads and publishes that
need them. It knows streams, entries and scripts. It never knows listeners. Outside of it, only
`consumer`, `driver`, `replay` and the room of streams itself import from it.
"""
