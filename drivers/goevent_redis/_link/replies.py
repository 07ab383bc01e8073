"""Replies: what kind they are, and error replies as the exceptions of the redis package."""

from __future__ import annotations

from typing import Any, TypeGuard

from redis import exceptions as redis_errors

_BY_CODE: dict[str, type[redis_errors.RedisError]] = {
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
    """Return the exception of the redis package that says what an error reply says."""
    code, _, rest = text.partition(" ")
    kind = _BY_CODE.get(code)
    if kind is not None:
        try:
            return kind(rest)
        except (ValueError, TypeError, IndexError):
            return redis_errors.ResponseError(text)  # a MOVED that does not say where to
    return redis_errors.ResponseError(text.removeprefix("ERR "))


def is_map(reply: object) -> TypeGuard[dict[Any, Any]]:
    """Tell whether a reply is a map."""
    return isinstance(reply, dict)


def is_list(reply: object) -> TypeGuard[list[Any]]:
    """Tell whether a reply is a list."""
    return isinstance(reply, list)
