"""The names of OpenTelemetry's conventions for messaging that goevent emits.

They are those of the semantic conventions 1.44, where messaging is still in development. So all of
them stand here, and a change of a name is a change of one line. `otel` is the only user.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions."""

# -- attributes

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

# Attributes of goevent's own.
LISTENER: Final = "goevent.listener"
ATTEMPT: Final = "goevent.attempt"
DELIVERIES: Final = "goevent.deliveries"
CAUSATION_ID: Final = "goevent.causation_id"

# -- types of operations. A bus never asks its broker for events, so there is no "receive".

CREATE: Final = "create"
SEND: Final = "send"
PROCESS: Final = "process"
SETTLE: Final = "settle"

# -- names of operations that differ from their types

ACKNOWLEDGE: Final = "ack"
REJECT: Final = "nack"
RELEASE: Final = "release"
REQUEST: Final = "request"

# -- metrics

OPERATION_DURATION: Final = "messaging.client.operation.duration"
SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
PROCESS_DURATION: Final = "messaging.process.duration"

DURATION_BOUNDARIES_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
"""The boundaries of the histograms that the conventions advise."""

IN_PROCESS_SYSTEM: Final = "goevent"
"""The messaging system of a bus without a broker."""
