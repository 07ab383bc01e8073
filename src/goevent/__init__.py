"""An actor-model, broker-agnostic event bus on Trio."""

from ._bus import GoEvent as GoEvent
from ._codec import Codec as Codec
from ._codec import JsonCodec as JsonCodec
from ._config import Config as Config
from ._envelope import Envelope as Envelope
from ._errors import (
    BusClosed as BusClosed,
)
from ._errors import (
    DeadlockError as DeadlockError,
)
from ._errors import (
    DecodeError as DecodeError,
)
from ._errors import (
    DriverError as DriverError,
)
from ._errors import (
    EncodeError as EncodeError,
)
from ._errors import (
    EventAbandoned as EventAbandoned,
)
from ._errors import (
    EventDropped as EventDropped,
)
from ._errors import (
    EventError as EventError,
)
from ._errors import (
    GoEventError as GoEventError,
)
from ._errors import (
    MailboxFull as MailboxFull,
)
from ._errors import (
    NestingError as NestingError,
)
from ._errors import (
    UnknownDriverError as UnknownDriverError,
)
from ._event import Event as Event
from ._handle import DispatchHandle as DispatchHandle
from ._ledger import (
    Ledger as Ledger,
)
from ._ledger import (
    ListenerSnapshot as ListenerSnapshot,
)
from ._ledger import (
    Snapshot as Snapshot,
)
from ._listener import Listener as Listener
from ._memory import MemoryDriver as MemoryDriver
from ._memory import MemoryHub as MemoryHub
from ._msgpack import MsgpackCodec as MsgpackCodec
from ._options import ListenerOptions as ListenerOptions
from ._registration import Registration as Registration
from ._registry import (
    EventRegistry as EventRegistry,
)
from ._registry import (
    UnknownEventError as UnknownEventError,
)
from ._registry import (
    register_event_type as register_event_type,
)
from ._registry import (
    upcast as upcast,
)
