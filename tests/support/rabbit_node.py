"""A RabbitMQ server of the tests' own: they may block it, empty it, or refuse users on it.

It takes about ten seconds to start, so the tests of one process share it. Each uses names of its
own, as on the server at the default port.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.support.brokers import missing
from tests.support.frozen import freeze_group
from tests.support.limits import HANG_SECONDS, SUBPROCESS_SECONDS
from tests.support.rabbit_server import RabbitSandbox
from tests.support.redis_server import free_port

# Debian's programs on the PATH are for root only, and run as another user.
DEBIAN_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
MAX_MESSAGE_BYTES = 200_000
WAIT_FOR_END_OF_SHOVEL = """
    Wait = fun Wait() ->
        case rabbit_runtime_parameters:lookup(<<"/">>, <<"shovel">>, <<"%s">>) of
            not_found -> ok;
            _ -> timer:sleep(50), Wait()
        end
    end,
    Wait().
"""
# The server tells its connections of an alarm later than it takes the new setting.
SET_WATERMARK = """
    vm_memory_monitor:set_vm_memory_high_watermark(%s),
    Wait = fun Wait() ->
        case rabbit_alarm:get_alarms() =/= [] of
            %s -> ok;
            _ -> timer:sleep(10), Wait()
        end
    end,
    Wait().
"""

# What the commands of `rabbitmqctl` call in the server, each with the command's arguments as
# binaries. The command itself needs one to two seconds of a processor to start.
EXPRESSIONS = {
    "eval": "{0}",
    "add_vhost": "ok = rabbit_vhost:add({0}, {acting})",
    "delete_vhost": "ok = rabbit_vhost:delete({0}, {acting})",
    "add_user": "ok = rabbit_auth_backend_internal:add_user({0}, {1}, {acting})",
    "set_permissions": (
        "ok = rabbit_auth_backend_internal:set_permissions({1}, {0}, {2}, {3}, {4}, {acting})"
    ),
    "set_topic_permissions": (
        "ok = rabbit_auth_backend_internal:set_topic_permissions("
        '{0}, <<"/">>, {1}, {2}, {3}, {acting})'
    ),
    "set_vhost_limits": "ok = rabbit_vhost_limit:parse_set({0}, {1}, {acting})",
    "set_parameter": 'ok = rabbit_runtime_parameters:parse_set(<<"/">>, {0}, {1}, {2}, {acting})',
}


def _binary(text: str) -> str:
    """Return a text as a binary in Erlang's syntax."""
    assert text.isascii(), "erl_call reads Latin-1"
    return f"<<{json.dumps(text)}>>"


def _program(name: str) -> str:
    """Return the path of one of RabbitMQ's programs."""
    directory = os.environ.get("GOEVENT_RABBITMQ_BIN")
    places = [Path(directory)] if directory else [DEBIAN_PROGRAMS]
    found = next((str(place / name) for place in places if (place / name).exists()), None)
    return found or shutil.which(name) or missing(f"{name} is not installed")


@dataclass
class RabbitNode:
    """A server process.

    Attributes:
        max_message_bytes: The largest size of a message, by the server's configuration.
    """

    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-rabbit")))
    max_message_bytes: int = MAX_MESSAGE_BYTES
    _name: str = field(default_factory=lambda: f"goevent-{uuid.uuid4().hex[:8]}@localhost")
    _distribution_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
        }

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        program = _program("rabbitmq-server")
        (self.directory / "plugins").write_text("[rabbitmq_shovel].")
        settings = f"max_message_size = {self.max_message_bytes}\n"
        (self.directory / "rabbitmq.conf").write_text(settings)
        self._process = subprocess.Popen(
            [program],
            env=self._environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + HANG_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                missing("a RabbitMQ of the tests' own does not start")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                # The server answers a wrong header with the version that it speaks.
                client.sendall(b"AMQP\0\0\0\0")
                return client.recv(4) == b"AMQP"
        except OSError:
            return False

    def freeze(self) -> None:
        """Stop the server as it is: its connections stay open, and it answers nothing."""
        assert self._process is not None
        freeze_group(self._process.pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server and its helpers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def ctl(self, *arguments: str) -> str:
        """Do as a command of `rabbitmqctl` does; return its output."""
        command, *rest = (argument for argument in arguments if argument not in ("-p", "--vhost"))
        if command == "eval":
            return await self._evaluate(rest[0].strip().removesuffix("."))
        if command in EXPRESSIONS:
            acting = _binary("tests")
            expression = EXPRESSIONS[command].format(*map(_binary, rest), acting=acting)
            return await self._evaluate(expression)
        return await self._run_ctl(*arguments)

    async def _evaluate(self, expression: str) -> str:
        """Evaluate an expression of Erlang in the server; return the text of its value."""
        program = shutil.which("erl_call")
        if program is None:
            return await self._run_ctl("eval", f"{expression}.")
        cookie = (self.directory / ".erlang.cookie").read_text()
        address = f"localhost:{self._distribution_port}"
        finished = await trio.run_process(
            # A name of its own: the server may still know the last call by the usual one.
            [program, "-address", address, "-c", cookie, "-h", f"t{uuid.uuid4().hex}", "-e"],
            env=self._environment(),
            stdin=f"{expression}.\n".encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        answer = finished.stdout.decode()
        if finished.returncode or not answer.startswith("{ok, "):
            raise RuntimeError(f"{expression}: {answer} {finished.stderr.decode()}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    async def _run_ctl(self, *arguments: str) -> str:
        finished = await trio.run_process(
            [_program("rabbitmqctl"), "--silent", *arguments],
            env=self._environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if finished.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments}: {finished.stderr.decode()}")
        return finished.stdout.decode()

    async def reset(self) -> None:
        """Delete everything on the server while it is stopped, and start it again."""
        for command in ("stop_app", "reset", "start_app"):
            await self.ctl(command)
        with trio.fail_after(SUBPROCESS_SECONDS):
            while not self._answers():
                await trio.sleep(0.1)

    async def block_publishers(self, *, blocked: bool = True) -> None:
        """Let the server run out of memory, as it sees it, or end that."""
        watermark, alarmed = ("0.00001", "true") if blocked else ("0.4", "false")
        await self.ctl("eval", SET_WATERMARK % (watermark, alarmed))

    async def move_messages(self, source: str, destination: dict[str, str]) -> None:
        """Move the messages of a queue by a shovel, as the management page does.

        Returns when the shovel has ended by itself. Until then it would take one message more.

        Args:
            destination: The settings of the shovel that say where they go.
        """
        settings = {
            "src-protocol": "amqp091",
            "src-uri": "amqp://",
            "src-queue": source,
            "src-delete-after": "queue-length",
            "dest-protocol": "amqp091",
            "dest-uri": "amqp://",
            "dest-add-forward-headers": False,
            **destination,
        }
        name = uuid.uuid4().hex
        await self.ctl("set_parameter", "shovel", name, json.dumps(settings))
        # The server deletes the parameter after the shovel has closed its connections.
        await self.ctl("eval", WAIT_FOR_END_OF_SHOVEL % name)

    def sandbox(self) -> RabbitSandbox:
        """Return names for one test; they are deleted with the server."""
        return RabbitSandbox(self.port)


@contextmanager
def rabbit_node() -> Generator[RabbitNode]:
    """Run a server inside a `with` block."""
    node = RabbitNode()
    try:
        node.start()
        yield node
    finally:
        node.kill()
        shutil.rmtree(node.directory, ignore_errors=True)
