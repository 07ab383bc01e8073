"""The JSON codec: envelopes to bytes and back, in the Go library's format.

The messages and the inbox of an open bus call the codec, once for each event that leaves or enters
the process. A codec keeps a prepared encoder and decoder for each event class.

Theory of operation. One call of msgspec writes or reads a whole envelope. But msgspec accepts some
values that Go would refuse or change silently: integers beyond int64, datetimes without an offset,
and NaN, which it writes as null. It also sets no limit to the size of a message, to its depth and
to the length of its numbers, so hostile input could be slow to parse. To look at every value in
Python would cost more than all of msgspec's work.

So each check comes twice: a cheap bound, and an exact test. A bound may be wrong in one direction
only: it may suspect a message that is fine, but it never passes one that is not. Only a suspected
message pays for the exact test.

Encoding: the values of most events have exactly the annotated types (see `type_check`). Then the
class is the bound: it tells how deep the event can be, and that its numbers are short. Such an
event is written as it is (`EventEncoder.is_direct`). For the others, `EventEncoder.needs_check`
looks for signs of values that Go would refuse, and the slow path converts the event to built-in
values, checks each of them and writes them.

Decoding: a message may have keys that the class does not have, so the bounds are over the bytes.
They use operations that run in C (`len`, `replace`, `translate`, `find`):

- Size: `len` is exact.
- Depth: the number of opening brackets is at least the depth. Only if there are more than
  `max_depth` of them is the nesting computed, without the brackets in strings.
- Digits: a number beyond int64 has 19 digits in a row, after all digits are made alike. A long
  number has a third of its digits in a row, because it has at most three parts: integer, fraction
  and exponent. A look at every nth byte finds the candidates.
- Datetimes: a regular expression finds a day and an hour, as in `-05 12:`, that are not a part of
  an RFC 3339 datetime with an offset. Another one finds escapes that could hide them.

The envelope and the event are read in one call if the event has the registered class of its
channel; otherwise in steps, which also find the exact reason of a refusal.
"""

# `template_of` is no method, because users should not see it.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event import AdHocEvent, Event
from .._events.registry import EventRegistry
from .._events.value_rules import INT64_MAX, INT64_MIN, WireFormatError
from .._suggestions import suggest_options
from .byte_bounds import (
    DIGITS_TO_ZERO,
    check_encoding,
    has_int64_run,
    has_only_utc,
    has_trailing_zeros,
    is_deeper,
    most_digits,
)
from .codec import (
    MAX_DEPTH_LEVELS,
    MAX_MESSAGE_BYTES,
    check_flags,
    check_limits,
    excerpt_of,
    reason_of,
)
from .envelope import (
    Envelope,
    RawEnvelope,
    check_key_case,
    from_wire,
    resolve_event_type,
    to_wire,
    untyped_class,
)
from .event_coders import EventDecoder, EventEncoder, model_values
from .template import MessageTemplate

MAX_NUMBER_DIGITS = 400
# A number has at most three parts of digits: integer, fraction and exponent.
_MAX_PARTS = 3
# The longest numbers in typed fields are floats, such as -2.2250738585072014e-308.
_MAX_TYPED_DIGITS = 24


@suggest_options
class JsonCodec:
    """Writes and reads the JSON format of the Go library.

    A codec belongs to one thread, because it keeps an encoder and a decoder for each class.

    Example:
        >>> class Renamed(Event, name="user.renamed.json"):
        ...     user_id: int
        >>> codec = JsonCodec(max_size=65_536)
        >>> data = codec.encode(Envelope(event_name="user.renamed.json", event=Renamed(user_id=7)))
        >>> codec.decode(data, event_name="user.renamed.json", registry=default_registry).event
        Renamed(user_id=7)

    Args:
        max_size: The largest message in bytes, on send and on receive.
        max_depth: The deepest nesting of objects and lists, the levels of the envelope included.
        max_digits: The largest number of digits in a number.
        accept_go_type_names: Accept a Go type ("*main.UserCreated") as the event type of the
            channel.
        upgrade: Apply the upcasts of the registry, so that listeners get the newest version.

    Raises:
        ValueError: A limit is below 1.
    """

    content_type = "application/json"

    def __init__(
        self,
        *,
        max_size: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH_LEVELS,
        max_digits: int = MAX_NUMBER_DIGITS,
        accept_go_type_names: bool = False,
        upgrade: bool = True,
    ) -> None:
        check_limits(max_size=max_size, max_depth=max_depth, max_digits=max_digits)
        check_flags(accept_go_type_names=accept_go_type_names, upgrade=upgrade)
        self._max_size = max_size
        self._max_depth = max_depth
        self._max_digits = max_digits
        # One part of a longer number has at least so many digits. If one looks at every nth byte,
        # at least three of them are in the part.
        self._min_part = max_digits // _MAX_PARTS + 1
        self._digit_step = max(1, self._min_part // 3)
        self._spaced_digits = b"0" * min(3, self._min_part)
        self._min_deep_brackets = max_depth + 1
        self._too_deep = f"nested deeper than {max_depth} levels"
        self._min_deep_bytes, self._min_deep_place = 5 * max_depth, 4 * max_depth
        self._accept_go_type_names = accept_go_type_names
        self._upgrade = upgrade
        # An event whose values have the annotated types has no longer numbers, so its class tells
        # whether it is within the limits of depth and digits. The envelope adds one level.
        self._max_levels = max_depth - 1 if max_digits >= _MAX_TYPED_DIGITS else -1
        self._write = msgspec.json.Encoder().encode
        self._write_model = msgspec.json.Encoder(enc_hook=model_values).encode
        self._read = msgspec.json.Decoder(RawEnvelope).decode
        self._encoders: dict[type[Any], EventEncoder] = {}
        self._decoders: dict[type[Any], EventDecoder] = {}

    def encode(self, envelope: Envelope) -> bytes:
        """Return the compact JSON of an envelope, with the keys in Go's order.

        Raises:
            EncodeError: The message is too large or too deep, or the event has a value that JSON or
                Go does not have: NaN, a naive datetime, an integer beyond int64 in a typed field, a
                lone surrogate, or an arbitrary object.
        """
        event: object = envelope.event
        try:
            cls = type(event)
            encoder = self._encoders.get(cls) or self._encoder_of(cls)
            # CPython 3.11 looks an attribute up slowly if it is called at once.
            has_exact_types, write = encoder.has_exact_types, self._write
            exact = has_exact_types(event)
            data: bytes | None
            if exact and encoder.is_direct:
                data = write(to_wire(envelope, event))
                if len(data) <= self._max_size:
                    return data
            if exact and encoder.is_dated:
                data = write(to_wire(envelope, event))
                if (
                    len(data) <= self._max_size
                    and has_only_utc(data)
                    and not has_trailing_zeros(data)
                ):
                    return data
            if exact and encoder.is_model:
                data = self._write_model(to_wire(envelope, event))
                self._check_limits(data)
                return data
            data = None
            if encoder.single_pass:
                try:
                    body = event if encoder.native else encoder.body(event)
                    data = self._write(to_wire(envelope, body))
                except TypeError:
                    # Perhaps pydantic can write it. If not, the slow path raises the exact reason.
                    pass
                else:
                    self._check_limits(data)
                    if encoder.needs_check(event, data):
                        data = None
            if data is None:
                data = self._encode_checked(envelope, encoder)
            if not exact and encoder.can_be_read(event):
                self._read_back(encoder, event, data)
        except Exception as error:
            raise EncodeError(envelope.event_name, reason_of(error)) from error
        return data

    def _encode_checked(self, envelope: Envelope, encoder: EventEncoder) -> bytes:
        body = encoder.checked_body(envelope.event)
        data = self._write(to_wire(envelope, body))
        self._check_limits(data)
        if has_int64_run(data):
            encoder.rules.check(body)
        return data

    def _read_back(self, encoder: EventEncoder, event: Any, data: bytes) -> None:
        """Refuse an event that a reader would refuse, or would get as another one."""
        cls: Any = event.__class__
        raw: Any = self._read(data).event_data
        encoder.check_same(event, self._decoder_of(cls).decode_event(bytes(raw)))

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, with its event validated; see `Codec.decode`.

        Raises:
            DecodeError: The bytes are not an envelope of this event name, or break a limit or a
                rule of the wire format.
        """
        try:
            if not data.isascii():
                check_encoding(data)
            # The limits come first: they bound the work of all that follows.
            size, envelope = len(data), None
            if size > self._max_size:
                self._check_size(data)
            cls = registry.type_of(event_name) or untyped_class(registry)
            # Without lists, each level takes five bytes, as in `{"":{}}`, and four up to its brace.
            # If there is no bracket, `replace` returns the same object: 30 ns faster than `find`.
            if (
                data.replace(b"[", b"", 1) is not data
                or (size > self._min_deep_bytes and data.rfind(b"{") >= self._min_deep_place)
            ) and self._has_many_brackets(data):
                envelope = self._read_as_written(data, cls)
                if envelope is None and is_deeper(data, self._max_depth):
                    raise WireFormatError(self._too_deep)
            if size > self._max_digits and (
                data[:: self._digit_step].translate(DIGITS_TO_ZERO).find(self._spaced_digits) >= 0
            ):
                self._check_digits(data)
            if cls is not None:
                try:
                    decoder = self._decoders.get(cls) or self._decoder_of(cls)
                    # CPython 3.11 looks an attribute up slowly if it is called at once.
                    decode_envelope = decoder.decode_envelope
                    envelope = envelope or decode_envelope(data)
                    if decoder.has_rules and decoder.may_break_rules(data):
                        envelope = None
                    else:
                        event = envelope.event
                        for name in decoder.direct_ints:
                            # A dataclass need not have set the attribute.
                            number = getattr(event, name, 0)
                            if type(number) is int and not INT64_MIN <= number <= INT64_MAX:
                                envelope = None
                except Exception:  # noqa: BLE001 - it may have another class
                    envelope = None
            # The usual form was read in one call. All others are read in steps, which also tell the
            # reason of a refusal.
            if envelope is None or not event_name == envelope.event_name == envelope.event_type:
                envelope = self._decode_in_steps(data, event_name, registry)
            elif cls is AdHocEvent:
                msgspec.structs.force_setattr(envelope, "event", Event(event_name, envelope.event))
            if self._upgrade and registry.has_upcasts:
                event = registry.upgrade(envelope.event)
                if event is not envelope.event:
                    envelope = msgspec.structs.replace(envelope, event=event)
        except Exception as error:
            raise DecodeError(event_name, reason_of(error), excerpt=excerpt_of(data)) from error
        return envelope

    def _read_as_written(self, data: bytes, cls: type[Any] | None) -> Envelope | None:
        """Return the envelope if this codec writes the same bytes for it; otherwise None.

        Then the message is not deeper than its class. If there are escapes in its strings, to write
        it again is cheaper than to look for the brackets outside of strings.
        """
        if cls is None or data.find(b"\\") < 0 or not self._encoder_of(cls).is_direct:
            return None
        try:
            self._check_digits(data)
            envelope = self._decoder_of(cls).decode_envelope(data)
            return envelope if self._write(envelope) == data else None
        except Exception:  # noqa: BLE001 - the checks that follow find the reason
            return None

    def _decode_in_steps(self, data: bytes, event_name: str, registry: EventRegistry) -> Envelope:
        check_key_case(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
        wire = self._read(data)
        event_type, cls = resolve_event_type(
            wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
        )
        if wire.event_data is msgspec.UNSET:
            raise WireFormatError("event_data is missing")
        raw = bytes(wire.event_data)
        # As in Go, null data is read as an object without keys.
        event = self._decoder_of(cls).decode_event(b"{}" if raw == b"null" else raw)
        if cls is AdHocEvent:
            event = Event(event_type, event)
        return from_wire(wire, event_type, event)

    def _encoder_of(self, cls: type[Any]) -> EventEncoder:
        encoder = self._encoders.get(cls)
        if encoder is None:
            encoder = self._encoders[cls] = EventEncoder(cls, max_levels=self._max_levels)
        return encoder

    def _decoder_of(self, cls: type[Any]) -> EventDecoder:
        decoder = self._decoders.get(cls)
        if decoder is None:
            decoder = self._decoders[cls] = EventDecoder(cls)
        return decoder

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._max_size:
            raise WireFormatError(f"{len(data)} bytes are above the limit of {self._max_size}")

    def _check_limits(self, data: bytes) -> None:
        """Refuse a message that is too large, too deep or has a number that is too long."""
        self._check_size(data)
        self._check_depth(data)
        self._check_digits(data)

    def _check_depth(self, data: bytes) -> None:
        if self._has_many_brackets(data) and is_deeper(data, self._max_depth):
            raise WireFormatError(self._too_deep)

    def _has_many_brackets(self, data: bytes) -> bool:
        """Tell whether there are more opening brackets than levels allowed."""
        most = self._min_deep_brackets
        # Counting brackets by removing them is three times as fast as `bytes.count`.
        others = len(data.replace(b"{", b"", most)) + len(data.replace(b"[", b"", most))
        return 2 * len(data) - others >= most

    def _check_digits(self, data: bytes) -> None:
        if (
            len(data) > self._max_digits
            and data[:: self._digit_step].translate(DIGITS_TO_ZERO).find(self._spaced_digits) >= 0
            and data.translate(DIGITS_TO_ZERO).find(b"0" * self._min_part) >= 0
            and most_digits(data) > self._max_digits
        ):
            raise WireFormatError(f"a number of more than {self._max_digits} digits")


def template_of(
    codec: JsonCodec, cls: type[Any], event_name: str, origin: str, max_size: int | None
) -> MessageTemplate | None:
    """Return a template for the messages of a class; None if the codec has to look at each event.

    Args:
        codec: The codec.
        cls: The class.
        event_name: The event name of the messages.
        origin: Their origin.
        max_size: The largest message in bytes, if that is less than the codec's own limit.
    """
    encoder = codec._encoder_of(cls)
    if not encoder.is_direct:
        return None
    return MessageTemplate(
        event_name,
        origin,
        can_write=encoder.has_exact_types,
        write=codec._write,
        max_size=codec._max_size if max_size is None else min(max_size, codec._max_size),
    )
