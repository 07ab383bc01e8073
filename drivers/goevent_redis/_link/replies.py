"""Replies: their types, and error replies as the exceptions of the redis package."""

from __future__ import annotations

from typing import Any, TypeGuard

from redis import exceptions as redis_errors

_CLASS_BY_CODE: dict[str, type[redis_errors.RedisError]] = {
    "ASK": redis_errors.AskError,
    "CLUSTERDOWN": redis_errors.ClusterDownError,
    "CROSSSLOT": redis_errors.ClusterCrossSlotError,
    "EXECABORT": redis_errors.ExecAbortError,
    "LOADING": redis_errors.BusyLoadingError,
    "MASTERDOWN": redis_errors.MasterDownError,
    "MOVED": redis_errors.MovedError,
    "NOAUTH": redis_errors.AuthenticationError,
    "NOPERM": redis_errors.NoPermissionError,
    "NOSCRIPT": redis_errors.NoScriptError,
    "OOM": redis_errors.OutOfMemoryError,
    "READONLY": redis_errors.ReadOnlyError,
    "TRYAGAIN": redis_errors.TryAgainError,
    "WRONGPASS": redis_errors.AuthenticationError,
}


def error_reply(text: str) -> redis_errors.RedisError:
    """Return the exception of the redis package for the text of an error reply."""
    code, _, rest = text.partition(" ")
    error_class = _CLASS_BY_CODE.get(code)
    if error_class is not None:
        try:
            return error_class(rest)
        except (ValueError, TypeError, IndexError):
            return redis_errors.ResponseError(text)  # a MOVED without an address
    return redis_errors.ResponseError(text.removeprefix("ERR "))


def whole_text(error: Exception) -> str:
    """Return the text of an error reply with its code, which the redis package cuts off."""
    for code, error_class in _CLASS_BY_CODE.items():
        if type(error) is error_class:
            return f"{code} {error}"
    return str(error)


def is_map(reply: object) -> TypeGuard[dict[Any, Any]]:
    """Return True for a map."""
    return isinstance(reply, dict)


def is_list(reply: object) -> TypeGuard[list[Any]]:
    """Return True for a list."""
    return isinstance(reply, list)
