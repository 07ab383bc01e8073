"""The conversations of a bus, made with their first use.

Most programs make no requests, and should not wait for the import of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._ports.inbox import BusInbox
    from ..drivers.contract import Driver
    from .conversations import Conversations


class LazyConversations:
    """Makes the conversations of one bus.

    Attributes:
        made: The conversations; None while nothing has needed them.
    """

    def __init__(
        self, dispatcher: Dispatcher, config: Config, driver: Driver, inbox: BusInbox
    ) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._driver = driver
        self._inbox = inbox
        self.made: Conversations | None = None
        dispatcher.track = self._track

    def get(self) -> Conversations:
        """Return the conversations, made now if there were none."""
        if self.made is None:
            from .conversations import Conversations

            self.made = Conversations(self._dispatcher, self._config, self._driver)
            self._inbox.requests = self.made
        return self.made

    @property
    def under_way(self) -> int:
        """The entries of all tables of conversations: 0 if none is under way."""
        return 0 if self.made is None else self.made.under_way

    async def _track(self, handle: DispatchHandle) -> None:
        """Begin to track a dispatch on which the other buses report."""
        await self.get().track(handle)
