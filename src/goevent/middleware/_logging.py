"""Logs what a bus does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import trio

from .. import Delivery, DispatchHandle, EventError, Veto, default_registry


class LogEvents:
    """Log every dispatch, every arrival from another bus, and every run of a listener.

    There is one record for each, when it has ended. What went well, was vetoed or was cancelled is
    logged at `level`; what failed, at WARNING at least and without a traceback: a failure that
    nobody handles the bus logs itself, as an ERROR. Middleware that stands outside of this one, and
    vetoes, leaves nothing to log, so put it first.

    Each record has these attributes, for formatters and filters:

    - `stage`: `"dispatch"`, `"delivery"` (an arrival) or `"call"` (a run of a listener)
    - `event_name`, `handle_id`
    - `listener`, `attempt`: None unless the stage is `"call"`
    - `duration`: seconds, as a float
    - `outcome`: `"completed"`, `"failed"`, `"vetoed"` or `"cancelled"`. A dispatch has completed
      when it has brought the event to the listeners, whatever becomes of it there.
    - `reason`: what was raised, or why it was vetoed; empty otherwise
    - `payload`: the fields of the event, only if asked for

    Args:
        logger: where to log; `goevent.middleware` by default.
        level: of what has not failed.
        payload: whether to log what is in the events. It may be large, or secret.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger | None = None,
        level: int = logging.DEBUG,
        payload: bool = False,
    ) -> None:
        if isinstance(level, bool) or not isinstance(level, int):
            raise TypeError(f"level is a number such as logging.INFO, not {level!r}")
        self._logger = logging.getLogger("goevent.middleware") if logger is None else logger
        self._level = level
        self._level_of_failures = max(level, logging.WARNING)
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
        if not self._logger.isEnabledFor(self._level_of_failures):
            yield
            return
        start = trio.current_time()
        level, outcome, reason = self._level, "cancelled", ""
        try:
            yield
            outcome = "completed"
        except Veto as veto:
            outcome, reason = "vetoed", str(veto)
            raise
        except Exception as error:
            level, outcome = self._level_of_failures, "failed"
            # It survives an exception whose __str__ raises.
            reason = EventError(handle.event_name, stage, error).reason
            raise
        finally:
            if self._logger.isEnabledFor(level):
                facts: dict[str, Any] = {
                    "stage": stage,
                    "event_name": handle.event_name,
                    "handle_id": handle.id,
                    "listener": listener,
                    "attempt": attempt,
                    "duration": trio.current_time() - start,
                    "outcome": outcome,
                    "reason": reason,
                }
                self._log(level, handle.event, facts)

    def _log(self, level: int, event: object, facts: dict[str, Any]) -> None:
        attempt = facts["attempt"]
        if self._payload:
            facts["payload"] = default_registry.payload_of(event)
        self._logger.log(
            level,
            "%s: %s %s in %.3f s%s%s%s",
            facts["event_name"],
            facts["listener"] or facts["stage"],
            facts["outcome"],
            facts["duration"],
            f" (attempt {attempt})" if attempt is not None and attempt > 1 else "",
            f": {facts['reason']}" if facts["reason"] else "",
            f": {facts['payload']!r}" if self._payload else "",
            extra=facts,
        )
