"""A process with the command `goevent` already imported, which forks for each run of it.

`tests.support.command` starts one for a run of the tests, and sends it requests: arguments, working
directory, environment, and the descriptors of stdin, stdout, stderr and of the reply. Each command
is a process of its own, with its own signals and exit code. It only saves the imports, which take
longer than most commands. The server has no thread and no open driver, so that it can fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import TypedDict

MAX_REQUEST_BYTES = 200_000
DESCRIPTORS = 4


class Request(TypedDict):
    """One command."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]


def forked_command(requests: socket.socket) -> list[str]:
    """Fork for each request; return its arguments in the forked process, never in the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that tell the exit code
    while True:
        data, (*streams, reply), _, _ = _received(requests)
        if os.fork() == 0:  # this process tells the exit code
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            pid = os.fork()
            if pid == 0:
                os.close(reply)
                return _command(json.loads(data), streams)
            _tell_end(pid, reply, streams)
        for each in (*streams, reply):
            os.close(each)


def _received(requests: socket.socket) -> tuple[bytes, list[int], int, object]:
    data, descriptors, flags, address = socket.recv_fds(requests, MAX_REQUEST_BYTES, DESCRIPTORS)
    if not data:  # the tests have ended
        os._exit(0)
    return data, descriptors, flags, address


def _tell_end(pid: int, reply: int, streams: list[int]) -> None:
    """Tell the pid of the command, then its exit code; end this process."""
    for each in streams:
        os.close(each)
    with socket.socket(fileno=reply) as answers:
        try:
            answers.send(b"%d" % pid)
            _, status = os.waitpid(pid, 0)
            answers.send(b"%d" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            pass  # the test has been given up
    os._exit(0)


def _command(request: Request, streams: list[int]) -> list[str]:
    """Make this process look as a new one does; return its arguments."""
    for target, each in enumerate(streams):
        os.dup2(each, target)
        os.close(each)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.path.insert(0, os.getcwd())
    sys.argv = ["goevent", *request["arguments"]]
    return request["arguments"]


if __name__ == "__main__":
    del sys.path[0]  # the directory of this file
    from goevent.cli import main
    from goevent.cli.commands import COMMANDS

    commands = [f"goevent.cli.{name}" for name in COMMANDS]
    brokers = [f"faststream.{name}" for name in ("kafka", "mqtt", "nats", "rabbit")]
    drivers = ["goevent_redis", "goevent_faststream", *brokers]
    for module in [*commands, *drivers, "encodings.idna", "yaml"]:
        importlib.import_module(module)
    gc.freeze()  # the garbage collector of a fork copies no page that the server has filled
    main(forked_command(socket.socket(fileno=int(sys.argv[1]))))
