"""The public names of `goevent`, which shows them as its own."""

from ._batch_handle import BatchHandle as BatchHandle, BatchInterrupted as BatchInterrupted
from ._bus import GoEvent as GoEvent
from ._config import Config as Config
from ._delivery import (
    Delivery as Delivery,
    SettledEvent as SettledEvent,
    current_delivery as current_delivery,
)
from ._errors import (
    BusClosed as BusClosed,
    BusForked as BusForked,
    DeadLettered as DeadLettered,
    DeadlockError as DeadlockError,
    DecodeError as DecodeError,
    DriverConnectionError as DriverConnectionError,
    DriverError as DriverError,
    DriverInUse as DriverInUse,
    EncodeError as EncodeError,
    EventAbandoned as EventAbandoned,
    EventDropped as EventDropped,
    EventError as EventError,
    EventVetoed as EventVetoed,
    GapDetected as GapDetected,
    GoEventError as GoEventError,
    ListenerTimeout as ListenerTimeout,
    MailboxFull as MailboxFull,
    NestingError as NestingError,
    NoResponder as NoResponder,
    RemoteError as RemoteError,
    RequestError as RequestError,
    RequestLost as RequestLost,
    RequestRefused as RequestRefused,
    RequestTimeout as RequestTimeout,
    UnknownDriverError as UnknownDriverError,
    UnsupportedError as UnsupportedError,
    Veto as Veto,
)
from ._events.event import AnyEvent as AnyEvent, Event as Event
from ._events.patterns import compile_pattern as compile_pattern
from ._events.registry import (
    EventRegistry as EventRegistry,
    UnknownEventError as UnknownEventError,
    default_registry as default_registry,
    register_event_type as register_event_type,
    upcast as upcast,
)
from ._handle import DispatchHandle as DispatchHandle
from ._kernel.event_trace import EventTrace as EventTrace, TracedListener as TracedListener
from ._kernel.ledger import (
    EventSnapshot as EventSnapshot,
    Ledger as Ledger,
    ListenerSnapshot as ListenerSnapshot,
    RequestCounts as RequestCounts,
    Snapshot as Snapshot,
)
from ._listeners.registered import RegisteredListener as RegisteredListener
from ._listeners.registration import Registration as Registration
from ._listeners.streams import EventStream as EventStream
from ._options.middleware import (
    AroundCall as AroundCall,
    AroundDelivery as AroundDelivery,
    AroundDispatch as AroundDispatch,
    AroundPublish as AroundPublish,
    AroundSettle as AroundSettle,
    BindsDriver as BindsDriver,
    Middleware as Middleware,
)
from ._options.options import ListenerOptions as ListenerOptions
from ._options.retry import Retry as Retry
from ._options.signature import Listener as Listener
from ._options.supervision import Supervision as Supervision
from ._remote_report import RemoteOutcome as RemoteOutcome, RemoteReport as RemoteReport
from ._wire.codec import Codec as Codec
from ._wire.envelope import Envelope as Envelope
from ._wire.json_codec import JsonCodec as JsonCodec
from ._wire.msgpack_codec import MsgpackCodec as MsgpackCodec
from .drivers.contract import (
    Backlog as Backlog,
    Capabilities as Capabilities,
    Driver as Driver,
    DriverSnapshot as DriverSnapshot,
    Inbox as Inbox,
    Message as Message,
    Receipt as Receipt,
    Settlement as Settlement,
)
from .drivers.memory import MemoryDriver as MemoryDriver, MemoryHub as MemoryHub

__all__ = [
    "AnyEvent",
    "AroundCall",
    "AroundDelivery",
    "AroundDispatch",
    "AroundPublish",
    "AroundSettle",
    "Backlog",
    "BatchHandle",
    "BatchInterrupted",
    "BindsDriver",
    "BusClosed",
    "BusForked",
    "Capabilities",
    "Codec",
    "Config",
    "DeadLettered",
    "DeadlockError",
    "DecodeError",
    "Delivery",
    "DispatchHandle",
    "Driver",
    "DriverConnectionError",
    "DriverError",
    "DriverInUse",
    "DriverSnapshot",
    "EncodeError",
    "Envelope",
    "Event",
    "EventAbandoned",
    "EventDropped",
    "EventError",
    "EventRegistry",
    "EventSnapshot",
    "EventStream",
    "EventTrace",
    "EventVetoed",
    "GapDetected",
    "GoEvent",
    "GoEventError",
    "Inbox",
    "JsonCodec",
    "Ledger",
    "Listener",
    "ListenerOptions",
    "ListenerSnapshot",
    "ListenerTimeout",
    "MailboxFull",
    "MemoryDriver",
    "MemoryHub",
    "Message",
    "Middleware",
    "MsgpackCodec",
    "NestingError",
    "NoResponder",
    "Receipt",
    "RegisteredListener",
    "Registration",
    "RemoteError",
    "RemoteOutcome",
    "RemoteReport",
    "RequestCounts",
    "RequestError",
    "RequestLost",
    "RequestRefused",
    "RequestTimeout",
    "Retry",
    "SettledEvent",
    "Settlement",
    "Snapshot",
    "Supervision",
    "TracedListener",
    "UnknownDriverError",
    "UnknownEventError",
    "UnsupportedError",
    "Veto",
    "compile_pattern",
    "current_delivery",
    "default_registry",
    "register_event_type",
    "upcast",
]
