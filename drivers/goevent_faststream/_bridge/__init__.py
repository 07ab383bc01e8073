"""The bridge: runs an asyncio loop in a thread of its own, under Trio.

The driver calls the Trio side; an adapter's clients live on the loop side. Two queues with one
wake-up per burst join them. The bridge must never know which broker the clients talk to.
"""
