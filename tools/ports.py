"""Ports of the loopback address for servers that tests and the demo start."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


class ReservedPort:
    """A free port of the loopback address, which the kernel gives to nobody else until it is released.

    It is bound, but nobody listens. A server that may reuse addresses, as servers do, can bind and listen.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, 0))
        self.number = int(self._socket.getsockname()[1])

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()
