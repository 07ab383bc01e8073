"""The suite of the codecs: goevent's beside msgspec, pydantic and `json`, for the same messages.

`shapes` has the events, `contenders` the loops, and `suite` the rows and the command line.
"""

GOEVENT, MSGSPEC, JSON, PYDANTIC_PEER = "goevent", "msgspec", "json", "pydantic"
"""The names of the contenders."""
