"""goevent over FastStream's brokers beside the same brokers used directly on asyncio."""
