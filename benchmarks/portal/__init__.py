"""The cost of the portal: dispatch from threads and from asyncio, beside dispatch on Trio."""
