"""Durable events over Redis Streams beside FastStream and redis.asyncio, a new server for each."""
