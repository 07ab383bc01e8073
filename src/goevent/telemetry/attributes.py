"""The attributes of spans and measurements, for the middleware of `otel`."""

from __future__ import annotations

from typing import cast

from .._delivery import Delivery
from .._errors import EventError
from .._handle import DispatchHandle
from . import conventions as names

Attributes = dict[str, str | int]


class EventAttributes:
    """The names and attributes that all spans and measurements of one event name share."""

    __slots__ = (
        "_common",
        "consumed",
        "create",
        "name",
        "process",
        "send",
        "send_title",
        "sent",
        "shared",
    )

    def __init__(
        self, common: Attributes, group: str, name: str, *, is_request: bool = False
    ) -> None:
        operation = names.REQUEST if is_request else names.SEND
        self.name: str = name
        self.send_title: str = f"{operation} {name}"
        self.shared: Attributes = {**common, names.DESTINATION_NAME: name}
        self._common: Attributes = {**self.shared}
        if group:
            self._common[names.CONSUMER_GROUP_NAME] = group
        self.create: Attributes = operation_attributes(self.shared, names.CREATE)
        self.send: Attributes = operation_attributes(self.shared, operation, names.SEND)
        self.process: Attributes = operation_attributes(self._common, names.PROCESS)
        self.sent: Attributes = {**self.shared, names.OPERATION_NAME: operation}
        self.consumed: Attributes = {**self._common, names.OPERATION_NAME: names.PROCESS}

    def settle(self, operation: str) -> Attributes:
        """Return the attributes of a settlement."""
        return operation_attributes(self._common, operation, names.SETTLE)


def operation_attributes(attributes: Attributes, name: str, kind: str = "") -> Attributes:
    return {**attributes, names.OPERATION_NAME: name, names.OPERATION_TYPE: kind or name}


def message_attributes(attributes: Attributes, handle: DispatchHandle) -> Attributes:
    """Return attributes together with those of one message."""
    shown: Attributes = {
        **attributes,
        names.MESSAGE_ID: handle.id,
        names.CONVERSATION_ID: handle.correlation_id,
    }
    if causation := handle.causation_id:
        shown[names.CAUSATION_ID] = causation
    return shown


def run_attributes(attributes: Attributes, delivery: Delivery) -> Attributes:
    """Return attributes together with those of one run of a listener."""
    shown = message_attributes(attributes, delivery.handle)
    shown[names.LISTENER] = delivery.listener
    if delivery.attempt > 1:
        shown[names.ATTEMPT] = delivery.attempt
    if delivery.deliveries > 1:
        shown[names.DELIVERIES] = delivery.deliveries
    return shown


def failed_attributes(attributes: Attributes, error_type: str) -> Attributes:
    return {**attributes, names.ERROR_TYPE: error_type} if error_type else attributes


def error_type_of(error: BaseException) -> str:
    """Return the class of an exception, as `error.type` has it.

    An `EventError` stands for its cause. A group whose exceptions have one class stands for them.
    """
    kind = type(error)
    if isinstance(error, EventError) and error.error is not None:
        return error_type_of(error.error)
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        kinds = {error_type_of(each) for each in group.exceptions}
        if len(kinds) == 1:
            return kinds.pop()
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
