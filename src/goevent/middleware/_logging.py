"""Logging: one record for each dispatch, each arrival and each run of a listener."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import trio

from .. import Delivery, DispatchHandle, EventError, Veto, default_registry
from .._suggestions import suggest_options


@suggest_options
class LogEvents:
    """Log every dispatch, every arrival from another bus, and every run of a listener.

    There is one record for each operation, made when it has ended. A failure is logged at WARNING
    or above and without a traceback; the bus itself logs a failure that nothing handles, as an
    ERROR. All other outcomes are logged at `level`. Put this object first: if middleware outside of
    it vetoes an event, it logs nothing.

    Each record has these attributes, for formatters and filters:

    - `stage`: `"dispatch"`, `"delivery"` (an arrival) or `"call"` (a run of a listener)
    - `event_name`, `handle_id`, `correlation_id`, `causation_id`
    - `listener`, `attempt`: None unless the stage is `"call"`
    - `duration`: The duration in seconds, as a float
    - `outcome`: `"completed"`, `"failed"`, `"vetoed"` or `"cancelled"`. A dispatch is completed
      when the event has reached the listeners, even if they fail later.
    - `reason`: The exception or the reason of the veto, otherwise empty
    - `payload`: The fields of the event, only with `payload=True`

    Example:
        >>> import logging
        >>> config = Config(middleware=(LogEvents(level=logging.INFO),))
        >>> async with GoEvent(config) as bus:
        ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))

    Args:
        logger: The logger; `goevent.middleware` by default.
        level: The level of operations that have not failed.
        payload: Whether to log the fields of events. These may be large or secret.

    Raises:
        TypeError: `level` is not a number.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger | None = None,
        level: int = logging.DEBUG,
        payload: bool = False,
    ) -> None:
        if isinstance(level, bool) or not isinstance(level, int):
            raise TypeError(f"level must be a number such as logging.INFO, not {level!r}")
        if logger is not None and not hasattr(logger, "log"):
            raise TypeError(f"logger must be a logging.Logger, not {logger!r}")
        if not isinstance(payload, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"payload must be True or False, not {payload!r}")
        self._logger = logging.getLogger("goevent.middleware") if logger is None else logger
        self._level = level
        self._failure_level = max(level, logging.WARNING)
        self._payload = payload

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Log one dispatch."""
        yield from self._logged("dispatch", handle)

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Log the arrival of one event from another bus."""
        yield from self._logged("delivery", handle)

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        """Log one run of a listener."""
        yield from self._logged("call", delivery.handle, delivery.listener, delivery.attempt)

    def _logged(
        self,
        stage: str,
        handle: DispatchHandle,
        listener: str | None = None,
        attempt: int | None = None,
    ) -> Iterator[None]:
        # The outcome is not known yet. If not even a failure would be logged, nothing will be.
        if not self._logger.isEnabledFor(self._failure_level):
            yield
            return
        start = trio.current_time()
        level, outcome, reason = self._level, "cancelled", ""
        try:
            yield
            outcome = "completed"
        except Veto as veto:
            outcome, reason = "vetoed", shown(veto)
            raise
        except Exception as error:
            level, outcome = self._failure_level, "failed"
            # `EventError.reason` also describes an exception whose `__str__` raises.
            reason = EventError(handle.event_name, stage, error).reason
            raise
        finally:
            if self._logger.isEnabledFor(level):
                attributes: dict[str, Any] = {
                    "stage": stage,
                    "event_name": handle.event_name,
                    "handle_id": handle.id,
                    "correlation_id": handle.correlation_id,
                    "causation_id": handle.causation_id,
                    "listener": listener,
                    "attempt": attempt,
                    "duration": trio.current_time() - start,
                    "outcome": outcome,
                    "reason": reason,
                }
                self._log(level, handle.event, attributes)

    def _log(self, level: int, event: object, attributes: dict[str, Any]) -> None:
        attempt = attributes["attempt"]
        if self._payload:
            attributes["payload"] = payload_of(event)
        self._logger.log(
            level,
            "%s: %s %s in %.3f s%s%s%s",
            attributes["event_name"],
            attributes["listener"] or attributes["stage"],
            attributes["outcome"],
            attributes["duration"],
            f" (attempt {attempt})" if attempt is not None and attempt > 1 else "",
            f": {attributes['reason']}" if attributes["reason"] else "",
            f": {shown(attributes['payload'])}" if self._payload else "",
            extra=attributes,
        )


def payload_of(event: object) -> object:
    """Return the fields of an event; a text if its own code fails."""
    try:
        return default_registry.payload_of(event)
    except Exception as error:  # noqa: BLE001 - a log record must not fail the event
        return f"<its fields cannot be read: {type(error).__name__}>"


def shown(value: object) -> str:
    """Return an object as text, even if its own code fails."""
    try:
        return str(value) if isinstance(value, Veto) else repr(value)
    except Exception as error:  # noqa: BLE001 - a log record must not fail the event
        return f"<it cannot be shown: {type(error).__name__}>"
