"""A RabbitMQ server of a run's own. It takes about ten seconds to start."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.brokers.harness import NotHere
from benchmarks.brokers.server_process import ServerProcess, free_port

# Debian's programs on the PATH are for root only, and run as another user.
DEBIAN_PROGRAMS = "/usr/lib/rabbitmq/bin"
CTL_SECONDS = 60.0


def rabbit_server() -> ServerProcess:
    """Return a server at a port of its own.

    Raises:
        NotHere: The program is not installed.
    """
    program, distribution_port = _program("rabbitmq-server"), free_port()

    def environment(port: int, directory: Path) -> Mapping[str, str]:
        (directory / "plugins").write_text("[].")
        (directory / "rabbitmq.conf").write_text("")
        return {
            **os.environ,
            "HOME": str(directory),
            "RABBITMQ_NODENAME": _node(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        }

    return ServerProcess(lambda *_: [program], answers=_answers, environment=environment)


def rabbit_ctl(server: ServerProcess, *arguments: str) -> str:
    """Run `rabbitmqctl` for a server; return its output.

    Raises:
        RuntimeError: It failed.
    """
    environment = {
        **os.environ,
        "HOME": str(server.directory),
        "RABBITMQ_NODENAME": _node(server.port),
        "RABBITMQ_CONF_ENV_FILE": str(server.directory / "none"),
    }
    command = [_program("rabbitmqctl"), "--silent", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=CTL_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"rabbitmqctl {arguments}: {done.stderr}")
    return done.stdout


def _program(name: str) -> str:
    """Return the path of one of RabbitMQ's programs."""
    place = Path(os.environ.get("GOEVENT_RABBITMQ_BIN", DEBIAN_PROGRAMS), name)
    found = str(place) if place.exists() else shutil.which(name)
    if found is None:
        raise NotHere(f"{name} is not installed")
    return found


def _node(port: int) -> str:
    return f"goevent-benchmark-{port}@localhost"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            # The server answers a wrong header with the version that it speaks.
            client.sendall(b"AMQP\0\0\0\0")
            return client.recv(4) == b"AMQP"
    except OSError:
        return False
