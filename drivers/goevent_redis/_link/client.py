"""A Redis client for Trio: the commands of the redis package, sent over the link.

The drivers' `client` property returns one, for the user's own commands.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import redis
from redis import exceptions as redis_errors
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands import AsyncCoreCommands

from .link import Link
from .pool import Pool
from .replies import is_list, is_map

Command: TypeAlias = tuple[bytes, ...]

BLOCKING_COMMANDS = {
    *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH"),
    *("BZMPOP", "BZPOPMAX", "BZPOPMIN", "WAIT", "WAITAOF"),
}
"""Commands that may hold up all later ones; each takes a connection of the pool."""

REFUSED_COMMANDS = {
    "AUTH": "set the user in RedisConfig",
    "DISCARD": "use RedisClient.pipeline",
    "EXEC": "use RedisClient.pipeline",
    "HELLO": "the link has sent it",
    "MONITOR": "it needs a connection of its own",
    "MULTI": "use RedisClient.pipeline",
    "PSUBSCRIBE": "use Link.subscribe",
    "PSYNC": "it needs a connection of its own",
    "PUNSUBSCRIBE": "use Link.subscribe",
    "QUIT": "close the link",
    "RESET": "it would change the shared connection",
    "SELECT": "set the database in RedisConfig",
    "SSUBSCRIBE": "use Link.subscribe",
    "SUBSCRIBE": "use Link.subscribe",
    "SUNSUBSCRIBE": "use Link.subscribe",
    "SYNC": "it needs a connection of its own",
    "UNSUBSCRIBE": "use Link.subscribe",
    "UNWATCH": "the watched keys would be those of all tasks",
    "WATCH": "the watched keys would be those of all tasks",
}
"""Commands that would change the connection for all tasks, each with an alternative."""


class RedisClient(AsyncCoreCommands):
    """A Redis client with the commands of `redis.asyncio.Redis`, for Trio.

    All tasks share the link's connection, and waiting commands are sent together, so several
    clients are no faster than one. Blocking commands take a connection from the pool. Transactions
    go through `pipeline`. WATCH and subscriptions are refused, because the connection is shared.

    Example:
        ```python
        async with Link(config).open() as link:
            client = RedisClient(link)
            await client.set("k", "v")
        ```

    Args:
        link: The link that sends the commands; it has to be open.
        pool: The pool for blocking commands; without one they are refused.
        decode_responses: True returns text instead of bytes.
        patience: Seconds that commands wait while the link is down; the link's own if None.
    """

    _is_async_client: Literal[True] = True
    # redis-py looks for this attribute; it serves redis-py's own connections.
    _event_dispatcher: Any = None

    def __init__(
        self,
        link: Link,
        pool: Pool | None = None,
        *,
        decode_responses: bool = False,
        patience: float | None = None,
    ) -> None:
        self._link = link
        self._pool = pool
        self._decode = decode_responses
        self._patience = patience
        # A client that never connects is the public way to redis-py's table of callbacks. From
        # redis-py 8 on, they turn RESP3 replies into the values that redis-py returned for RESP2.
        unconnected = redis.Redis()
        self.response_callbacks: Any = unconnected.response_callbacks
        self._encoder: Any = unconnected.get_encoder()

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Have `callback` turn the replies to `command` into the values that the client returns."""
        self.response_callbacks[command] = callback

    def get_encoder(self) -> Any:
        """Return the encoder of arguments; the redis package calls this."""
        return self._encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return the settings of the connection that the redis package asks for."""
        return {"db": self._link.config.db, "protocol": 3, "decode_responses": self._decode}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply as `redis.asyncio` returns it.

        Raises:
            redis.exceptions.ResponseError: The server answers with an error.
            redis.exceptions.DataError: An argument is neither text nor bytes nor a number.
            redis.exceptions.RedisError: The command must not run on a shared connection.
            RedisLinkError: No reply will come; the class says why.
        """
        command = self._command(args)
        block = _blocks_for(command)
        try:
            if block is None:
                reply = await self._link.execute(*command, patience=self._patience)
            else:
                reply = await self._execute_blocking(command, block)
        except redis_errors.ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        return await self._convert(args[0], reply, options)

    async def pipeline(
        self, commands: Sequence[Sequence[Any]], *, transaction: bool = False
    ) -> list[Any]:
        """Send commands in one piece and return their replies.

        The replies are as the server sends them. Error replies are exceptions in the list.

        Args:
            commands: The commands, each with its arguments.
            transaction: True has the server run all commands with nothing in between, or none.

        Raises:
            redis.exceptions.ExecAbortError: The server refused the transaction, all of it.
        """
        packed = [self._command(command) for command in commands]
        for command in packed:
            if _blocks_for(command) is not None:
                raise redis_errors.RedisError(f"{_name(command)} would hold up the pipeline")
        if transaction:
            replies = await self._link.pipeline(
                [("MULTI",), *packed, ("EXEC",)], patience=self._patience
            )
            executed = replies[-1]
            if isinstance(executed, Exception):
                raise executed
            replies = cast("list[Any]", executed)
        else:
            replies = await self._link.pipeline(packed, patience=self._patience)
        return [_decoded(reply) for reply in replies] if self._decode else replies

    def _command(self, args: Sequence[Any]) -> Command:
        """Return a command as bytes; refuse commands that would change the shared connection."""
        # The redis package passes CONFIG GET and its like as one argument.
        words = args[0].split() if isinstance(args[0], str) else [args[0]]
        encode = self._encoder.encode
        command = tuple(bytes(encode(arg)) for arg in (*words, *args[1:]))
        name = _name(command)
        if name == "CLIENT" and len(command) > 1 and command[1].upper() == b"REPLY":
            raise redis_errors.RedisError("CLIENT REPLY is refused: every command has its reply")
        if name in REFUSED_COMMANDS:
            raise redis_errors.RedisError(
                f"{name} is refused on a shared link: {REFUSED_COMMANDS[name]}"
            )
        return command

    async def _execute_blocking(self, command: Command, block: float) -> Any:
        if self._pool is None:
            raise redis_errors.RedisError(f"{_name(command)} needs RedisClient(link, pool)")
        async with self._pool.connection() as connection:
            timeout = block + self._link.config.read_timeout
            return await connection.call(*command, timeout=timeout)

    async def _convert(self, name: Any, reply: Any, options: dict[str, Any]) -> Any:
        options.pop(EMPTY_RESPONSE, None)
        options.pop("keys", None)  # only for the cache of redis-py
        never_decode = options.pop(NEVER_DECODE, None) is not None  # its value does not matter
        if self._decode and not never_decode:
            reply = _decoded(reply)
        callback = self.response_callbacks.get(name)
        if callback is None:
            return reply
        value = callback(reply, **options)
        return await value if inspect.isawaitable(value) else value


def _name(command: Command) -> str:
    return str(command[0], "ascii", "replace").upper()


def _blocks_for(command: Command) -> float | None:
    """Return how many seconds a command may block; None if it does not block."""
    name = _name(command)
    if name in ("XREAD", "XREADGROUP"):
        for word, after in pairwise(command):
            if word.upper() == b"STREAMS":
                return None
            if word.upper() == b"BLOCK":
                return _seconds(after, 1000)
        return None
    if name not in BLOCKING_COMMANDS:
        return None
    if name in ("WAIT", "WAITAOF"):
        return _seconds(command[-1], 1000)
    return _seconds(command[1] if name in ("BLMPOP", "BZMPOP") else command[-1], 1)


def _seconds(argument: bytes, per_second: float) -> float:
    try:
        seconds = float(argument) / per_second
    except ValueError:
        return 0.0  # the server answers with an error
    return seconds if seconds > 0 else math.inf


def _decoded(reply: Any) -> Any:
    """Return a reply with text in place of bytes."""
    if isinstance(reply, bytes):
        return reply.decode()
    if is_list(reply):
        return [_decoded(each) for each in reply]
    if is_map(reply):
        return {_decoded(key): _decoded(value) for key, value in reply.items()}
    return reply
