"""What a listener may ask for, and the check that it makes sense."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypedDict

Overflow = Literal["block", "error", "drop_new", "drop_old"]
OVERFLOWS = ("block", "error", "drop_new", "drop_old")
DEFAULT_MAILBOX = 1024


class ListenerKeywords(TypedDict, total=False):
    """The options of `ListenerOptions` as keywords of `@bus.listener`."""

    async_: bool | None
    mailbox: int | None
    overflow: Overflow | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """How one listener is run, as Go's `goevent.ListenerOptions`; None means the default.

    Attributes:
        async_: True gives the listener a mailbox and runs it after `dispatch` has returned; False
            runs it inline, before. The default is what the function is: `def` runs inline,
            `async def` has a mailbox.
        mailbox: how many events may wait for the listener; 1024 by default.
        overflow: what a dispatch meets at a full mailbox. `"block"` (default) waits for room, first
            come, first served; `"error"` raises `MailboxFull` and delivers to nobody; `"drop_new"`
            and `"drop_old"` drop the new or the oldest event and report it on that event's handle.
        name: how errors and snapshots call the listener; its qualified name by default.
    """

    async_: bool | None = None
    mailbox: int | None = None
    overflow: Overflow | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.mailbox is not None:
            if isinstance(self.mailbox, bool) or not isinstance(self.mailbox, int):
                raise TypeError(f"mailbox is a number of events, not {self.mailbox!r}")
            if self.mailbox < 1:
                raise ValueError(f"mailbox must hold at least 1 event, not {self.mailbox}")
        if self.overflow is not None and self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow is one of {', '.join(OVERFLOWS)}, not {self.overflow!r}")
        if self.async_ is False and (self.mailbox is not None or self.overflow is not None):
            raise ValueError("an inline listener (async_=False) has no mailbox and no overflow")

    def over(self, default: ListenerOptions) -> ListenerOptions:
        """Return these options with what they leave open filled from `default`."""
        chosen = {
            field.name: getattr(default, field.name)
            if getattr(self, field.name) is None
            else getattr(self, field.name)
            for field in fields(self)
        }
        if chosen["async_"] is False:  # no mailbox for the defaults to be about
            chosen |= {"mailbox": self.mailbox, "overflow": self.overflow}
        return ListenerOptions(**chosen)
