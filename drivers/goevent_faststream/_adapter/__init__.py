"""What the adapters of all brokers share: their contract, message formats and connectivity.

The loop side of the bridge drives an adapter through `contract`. Nothing here knows one broker's
client.
"""
