"""Cheap bounds over the bytes of a message, and the exact tests behind them.

`json_codec` and `event_coders` ask them whether a message may break a limit or a rule of the wire
format. They use operations that run in C (`len`, `replace`, `translate`, `find`), because a look at
each byte in Python would cost more than the parser. `json_codec` explains how they work together. A
bound may suspect a message that is fine, but it never passes one that is not.
"""

from __future__ import annotations

import re

from .._events.value_rules import WireFormatError

# All digits are made alike. To find bytes by `find` is faster than by `in`, which first takes them
# for a number.
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# The shortest number that can be beyond int64. Of so many bytes in a row, three are every sixth.
_INT64_DIGITS = b"0" * 19
_THREE_DIGITS = b"000"
# The metadata at the end of an envelope, such as the origin, have many digits by nature.
_MIN_SLICED_BYTES = 512
_TAIL_BYTES = 256

# If the closing quote is missing, a string extends to the end of the data. So no part of a hostile
# input is scanned twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NUMBER = re.compile(rb"[-+.0-9eE]++")
_NOT_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")

# The time of day in a datetime that is not RFC 3339 with an offset.
_LOOSE_DATETIME = re.compile(
    rb'-\d\d(?!T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")[Tt ]\d\d:', re.ASCII
)
# An escaped character of a datetime: + - . : digits, T or t.
_ESCAPED_DATETIME = re.compile(rb"\\u00(?:2[0bBdDeE]|3[0-9aA]|5[4aA]|7[4aA])")


def has_int64_run(data: bytes) -> bool:
    """Tell whether the data may contain a number beyond int64."""
    if len(data) > _MIN_SLICED_BYTES and (
        data[:-_TAIL_BYTES:6].translate(DIGITS_TO_ZERO).find(_THREE_DIGITS) < 0
    ):
        # Together with the digits before it that may belong to the same number.
        data = data[-_TAIL_BYTES - len(_INT64_DIGITS) :]
    return data.translate(DIGITS_TO_ZERO).find(_INT64_DIGITS) >= 0


def has_only_utc(data: bytes) -> bool:
    """Tell whether all datetimes in the data are RFC 3339 in UTC; False if it is not certain."""
    # Without its digits, such a datetime is `--T::Z` or `--T::.Z`.
    rest = data.translate(None, b"0123456789")
    in_utc = rest.count(b'--T::Z"') + rest.count(b'--T::.Z"')
    return rest.count(b"--T:") == in_utc and rest.find(b"-- :") < 0 and rest.find(b"--t:") < 0


def has_trailing_zeros(data: bytes) -> bool:
    """Tell whether the data may contain a datetime in UTC whose fraction ends with a zero."""
    # A zero before the Z is that of a fraction, unless it is the second digit of the seconds.
    return any(each[-2:-1] != b":" for each in data.split(b'0Z"')[:-1])


def has_loose_datetime(data: bytes) -> bool:
    """Tell whether the data may contain a datetime that is not RFC 3339 with an offset."""
    if len(data) > _MIN_SLICED_BYTES and data.find(b"\\") < 0 and has_only_utc(data):
        return False
    return _LOOSE_DATETIME.search(data) is not None or (
        b"\\" in data and _ESCAPED_DATETIME.search(data) is not None
    )


def check_encoding(data: bytes) -> None:
    """Refuse data that are not UTF-8, or begin with a byte order mark.

    Raises:
        UnicodeDecodeError: The data are not UTF-8.
        WireFormatError: There is a byte order mark.
    """
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise WireFormatError("a byte order mark; the format is UTF-8 without one")
    data.decode()


def is_deeper(data: bytes, limit: int) -> bool:
    """Tell whether the brackets outside of strings nest deeper than a limit."""
    if b"\\" in data:
        # Without the escapes, a quote begins or ends a string. The escaped backslashes come first,
        # because a quote after one of them is not escaped.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = data.translate(_BRACES_TO_BRACKETS, _NOT_BRACKETS_OR_QUOTES)
    # A bracket is in a string if the number of quotes before it is odd. Without a pair of quotes it
    # is odd or even as before. Often no quotes are left: there is no bracket in any string.
    brackets = brackets.replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    if b"[" * (limit + 1) in brackets:
        return True
    # Each round removes the innermost pairs. A mismatch of braces and brackets does not matter
    # here; the parser refuses it.
    for _ in range(limit):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:
            return False
    return b"[]" in brackets


def most_digits(data: bytes) -> int:
    """Return the number of digits of the longest number outside of strings."""
    numbers = _NUMBER.findall(_STRING.sub(b"", data))
    return max(
        (len(each) - len(each.translate(None, b"0123456789")) for each in numbers), default=0
    )
