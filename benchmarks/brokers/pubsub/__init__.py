"""goevent over Redis pub/sub beside FastStream and redis.asyncio, on one server."""
