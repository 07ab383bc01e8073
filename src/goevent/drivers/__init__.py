"""What a driver author imports: the contract, what durable drivers share, and the memory driver.

A driver takes events to other buses over one transport. It imports `goevent` and this package, and
nothing deeper; the bus finds it by its entry point and runs it inside `async with bus`.
"""

from .contract import (
    Backlog as Backlog,
    Capabilities as Capabilities,
    Driver as Driver,
    DriverSnapshot as DriverSnapshot,
    Inbox as Inbox,
    Message as Message,
    Receipt as Receipt,
    Settlement as Settlement,
)
from .memory import MemoryDriver as MemoryDriver, MemoryHub as MemoryHub
