"""Answers: turns the answers of responders into JSON and back.

An answer is any value that msgspec or pydantic can write: an event, a dataclass, an attrs class, a
model, a built-in value. The asking side names the type, and gets a value of that type or an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event import AdHocEvent, Event
from .._events.event_types import PYDANTIC, adapter_of, short_name
from .._events.value_rules import to_json_values
from .._foreign import describe, describe_value, type_name
from .._wire.codec import MAX_MESSAGE_BYTES, excerpt_of

MAX_CACHED_TYPES = 1000
"""The types of answers whose readers are kept."""

AnswerReader = Callable[[bytes], Any]
"""Returns the answer in some bytes; raises any error if they hold none."""


class AnswerCheck:
    """The check of the answers of one responder.

    Args:
        answers: The answers of the bus.
        answer: The type that the responder was registered with; None for any.

    Raises:
        TypeError: No answer can be of this type.
    """

    def __init__(self, answers: AnswerCodec, answer: Any) -> None:
        self._answers = answers
        self._answer = answer
        self._is_class = answer is not None and _has_instances(answer)
        if not (answer is None or self._is_class):
            answers.reader(answer)

    def check(self, event_name: str, value: object) -> None:
        """Refuse a value that is not of the type.

        Raises:
            DecodeError: The value does not have the parts that the type describes.
            TypeError: The value is no instance of the class.
        """
        if self._answer is None:
            return
        if not self._is_class:
            self._answers.convert(event_name, value, self._answer)
        elif not isinstance(value, self._answer):
            raise TypeError(
                f"the responder to {event_name!r} has to return {self._answer.__qualname__}, and "
                f"has returned {type_name(value)}"
            )


class AnswerCodec:
    """The codec for the answers of one bus; requests use the codec of the bus.

    Attributes:
        max_size: The size of the largest answer, in bytes. Requests have the same limit.
    """

    def __init__(self) -> None:
        self._readers: dict[Any, AnswerReader] = {}
        self._write = msgspec.json.Encoder().encode
        self.max_size: int = MAX_MESSAGE_BYTES

    def encode(self, event_name: str, value: object) -> bytes:
        """Return an answer as JSON.

        Raises:
            EncodeError: The value cannot be written, or is too large.
        """
        try:
            if adapter_of(type(value)) is PYDANTIC:
                text: str = cast("Any", value).model_dump_json(by_alias=True)
                data = text.encode()
            else:
                data = self._write(value)
            if data.find(b"null") >= 0:
                # msgspec and pydantic write NaN and the infinities as null.
                check_finite(value)
        except Exception as error:
            reason = f"the answer {describe_value(value)} cannot be written: {describe(error)}"
            raise EncodeError(event_name, reason) from error
        if len(data) > self.max_size:
            limit = f"the answer has {len(data)} bytes, above the limit of {self.max_size}"
            raise EncodeError(event_name, limit)
        return data

    def decode(self, event_name: str, data: bytes, answer: Any) -> Any:
        """Return the answer in the bytes.

        Raises:
            DecodeError: The bytes hold no value of this type.
        """
        try:
            return self.reader(answer)(data)
        except Exception as error:  # noqa: BLE001 - validators are code of the application
            reason = f"the answer is no {_title(answer)}: {describe(error)}"
        raise DecodeError(event_name, reason, excerpt=excerpt_of(data))

    def convert(self, event_name: str, value: object, answer: Any) -> Any:
        """Return an answer of this process as a value of the type, as `decode` would.

        Raises:
            DecodeError: The value is not one of this type.
            EncodeError: The value cannot be written.
        """
        # JSON has no subclasses: a bool is no int there.
        if type(value) is answer:
            return value
        return self.decode(event_name, self.encode(event_name, value), answer)

    def reader(self, answer: Any) -> AnswerReader:
        """Return the function that reads answers of a type, made once.

        Raises:
            TypeError: No answer can be of this type.
        """
        try:
            reader = self._readers.get(answer)
        except TypeError:  # a type that cannot be hashed
            return _make_reader(answer)
        if reader is None:
            reader = _make_reader(answer)
            if len(self._readers) >= MAX_CACHED_TYPES:
                self._readers.clear()
            self._readers[answer] = reader
        return reader


def check_finite(value: object) -> None:
    """Refuse an answer with a number that JSON does not have.

    Raises:
        WireFormatError: It has one.
    """
    if adapter_of(type(value)) is PYDANTIC:
        to_json_values(cast("Any", value).model_dump(mode="json", by_alias=True))
    else:
        to_json_values(msgspec.to_builtins(value))


def _make_reader(answer: Any) -> AnswerReader:
    if answer is Event or answer is AdHocEvent:
        raise TypeError("the answer to a request is of a class of its own, or a dict: not an Event")
    if isinstance(answer, type) and adapter_of(answer) is PYDANTIC:
        reader: AnswerReader = cast("Any", answer).model_validate_json
        return reader
    try:
        return msgspec.json.Decoder(answer).decode
    except TypeError as error:
        raise TypeError(f"no answer can be of the type {_title(answer)}: {error}") from None


def _has_instances(answer: Any) -> bool:
    """Tell whether a type is a class whose instances Python knows, unlike `Any` or `list[int]`."""
    try:
        return isinstance(answer, type) and not isinstance(None, answer)
    except TypeError:
        return False


def _title(answer: Any) -> str:
    return short_name(answer) if isinstance(answer, type) else describe_value(answer)
