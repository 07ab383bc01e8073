"""The public names for authors of drivers: the contract, the durable core, the memory driver.

A driver carries events to other buses over one transport. It imports `goevent` and this package,
and nothing deeper. The bus finds a driver by its entry point, or gets the object, and runs it
inside `async with bus`. This room knows events, envelopes and errors. It never knows listeners,
mailboxes or the bus; those reach it as an `Inbox`.

- `contract`: the `Driver` and the `Inbox`, and the values that pass between them.
- `durable`: the settings of every durable driver, and its verdicts on events.
- `dead_letters`: the events that a group has given up.
- `direct`: the messages that buses send to each other beside the events.
- `identity`: what telemetry calls the broker.
- `description`: the servers of a broker and its places for events, for documents.
- `inspection`: the questions of operators, which change nothing at the broker.
- `tail_channel`: the events of a tail, on their way to the one who looks.
- `keyed_fifo`: a queue per key, for events that keep an order.
- `read_watchdog`: notices a reader that gets no answer any more.
- `memory`: the default driver, and the hub that joins the buses of one process.
- `RESERVED_PREFIX`: the beginning of the names that buses use among themselves.
- `PatternTrie`: finds those of many patterns that a name matches.
- `url`: the parts of a URL, and the check of its options.
- `tls`: the options of TLS in a URL, and the reasons for which it fails.
- `discovery`: finds the driver that a URL or a name stands for.
- `error_mapping`: makes a `DriverError` of every exception that leaves a driver.
- `packaging`: lets public classes name the package that users import them from.

The bus itself uses only some of these modules. The others are imported with the first use of one of
their names, so that a program without a broker does not wait for them.
"""

import importlib
import typing

from .._events.names import RESERVED_PREFIX as RESERVED_PREFIX
from .._events.patterns import PatternTrie as PatternTrie
from .._suggestions import did_you_mean as did_you_mean, suggest_options as suggest_options
from .contract import (
    Backlog as Backlog,
    BatchReplied as BatchReplied,
    Capabilities as Capabilities,
    Driver as Driver,
    DriverSnapshot as DriverSnapshot,
    Inbox as Inbox,
    Message as Message,
    Receipt as Receipt,
    Settlement as Settlement,
)
from .keyed_fifo import KeyedFifo as KeyedFifo
from .memory import MemoryDriver as MemoryDriver, MemoryHub as MemoryHub
from .packaging import publish_names as publish_names

if typing.TYPE_CHECKING:
    from .dead_letters import (
        DEAD_LETTERS_PER_CALL as DEAD_LETTERS_PER_CALL,
        DEAD_LETTERS_PER_PAGE as DEAD_LETTERS_PER_PAGE,
        MAX_REASON_CHARS as MAX_REASON_CHARS,
        DeadLetter as DeadLetter,
        DeadLetters as DeadLetters,
        DeadLetterStore as DeadLetterStore,
        dead_letter_report as dead_letter_report,
        in_one_line as in_one_line,
    )
    from .description import (
        BrokerDescription as BrokerDescription,
        Describes as Describes,
        PlaceDescription as PlaceDescription,
        ServerDescription as ServerDescription,
        described as described,
    )
    from .direct import (
        DirectSent as DirectSent,
        SendsDirectly as SendsDirectly,
        TakeDirect as TakeDirect,
        direct_sender as direct_sender,
    )
    from .durable import (
        ACK as ACK,
        EXHAUSTED as EXHAUSTED,
        MAX_DETAILS_CHARS as MAX_DETAILS_CHARS,
        RELEASE as RELEASE,
        Action as Action,
        DurableConfig as DurableConfig,
        Verdict as Verdict,
        check_count as check_count,
        check_name as check_name,
        check_seconds as check_seconds,
        group_required as group_required,
        in_utc as in_utc,
        jittered as jittered,
        read_options as read_options,
        retry_or_dead_letter as retry_or_dead_letter,
        undecodable as undecodable,
        verdict as verdict,
    )
    from .identity import (
        BrokerIdentity as BrokerIdentity,
        broker_identity as broker_identity,
    )
    from .inspection import (
        Finding as Finding,
        Inspects as Inspects,
        TailedEvent as TailedEvent,
        inspected as inspected,
    )
    from .read_watchdog import (
        READ_SILENCE_SECONDS as READ_SILENCE_SECONDS,
        ReadWatchdog as ReadWatchdog,
    )
    from .tail_channel import TailChannel as TailChannel, running_tail as running_tail
    from .tls import (
        NO_TLS as NO_TLS,
        TLS_OPTIONS as TLS_OPTIONS,
        TlsSettings as TlsSettings,
        explain_tls as explain_tls,
        find_tls_failure as find_tls_failure,
        read_tls as read_tls,
    )
    from .url import (
        DriverUrl as DriverUrl,
        check_url_options as check_url_options,
        read_driver_url as read_driver_url,
    )

__all__ = [
    "ACK",
    "DEAD_LETTERS_PER_CALL",
    "DEAD_LETTERS_PER_PAGE",
    "EXHAUSTED",
    "MAX_DETAILS_CHARS",
    "MAX_REASON_CHARS",
    "NO_TLS",
    "READ_SILENCE_SECONDS",
    "RELEASE",
    "RESERVED_PREFIX",
    "TLS_OPTIONS",
    "Action",
    "Backlog",
    "BatchReplied",
    "BrokerDescription",
    "BrokerIdentity",
    "Capabilities",
    "DeadLetter",
    "DeadLetterStore",
    "DeadLetters",
    "Describes",
    "DirectSent",
    "Driver",
    "DriverSnapshot",
    "DriverUrl",
    "DurableConfig",
    "Finding",
    "Inbox",
    "Inspects",
    "KeyedFifo",
    "MemoryDriver",
    "MemoryHub",
    "Message",
    "PatternTrie",
    "PlaceDescription",
    "ReadWatchdog",
    "Receipt",
    "SendsDirectly",
    "ServerDescription",
    "Settlement",
    "TailChannel",
    "TailedEvent",
    "TakeDirect",
    "TlsSettings",
    "Verdict",
    "broker_identity",
    "check_count",
    "check_name",
    "check_seconds",
    "check_url_options",
    "dead_letter_report",
    "described",
    "did_you_mean",
    "direct_sender",
    "explain_tls",
    "find_tls_failure",
    "group_required",
    "in_one_line",
    "in_utc",
    "inspected",
    "jittered",
    "publish_names",
    "read_driver_url",
    "read_options",
    "read_tls",
    "retry_or_dead_letter",
    "running_tail",
    "suggest_options",
    "undecodable",
    "verdict",
]
# The modules with the other names of `__all__`.
_IMPORTED_LATER = (
    "dead_letters",
    "description",
    "direct",
    "durable",
    "identity",
    "inspection",
    "read_watchdog",
    "tail_channel",
    "tls",
    "url",
)

if not typing.TYPE_CHECKING:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        missing = [each for each in __all__ if each not in globals()]
        for module in _IMPORTED_LATER:
            found = vars(importlib.import_module(f".{module}", __name__))
            globals().update((each, found[each]) for each in missing if each in found)
        publish_names(globals(), missing)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


publish_names(globals(), [name for name in __all__ if name in globals()])
