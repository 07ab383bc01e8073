"""Sends messages as fast as the server takes them: bytes that a contender's own code has made."""

import socket
from collections.abc import Sequence

AT_ONCE = 500


def flood(address: str, channel: str, payloads: Sequence[bytes]) -> None:
    """Publish payloads to a channel; returns when the server has taken them."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        # Without it, replies that nobody reads would fill the buffers.
        connection.sendall(b"CLIENT REPLY OFF\r\n")
        head = f"*3\r\n$7\r\nPUBLISH\r\n${len(channel)}\r\n{channel}\r\n".encode()
        for start in range(0, len(payloads), AT_ONCE):
            chunk = payloads[start : start + AT_ONCE]
            connection.sendall(
                b"".join(b"%s$%d\r\n%s\r\n" % (head, len(data), data) for data in chunk)
            )
        connection.sendall(b"CLIENT REPLY ON\r\nPING\r\n")
        said = b""
        while not said.endswith(b"+PONG\r\n"):
            said += connection.recv(1024)
