"""The suites over brokers: Redis pub/sub, Redis Streams, and the brokers that FastStream hosts.

`harness` is the parent of all three: it starts a child process for each figure, interleaves the
rounds and keeps the figures. `child` runs one job of one contender. Each suite has a folder with
its contenders, which repeat themselves so that each can be read alone.
"""
