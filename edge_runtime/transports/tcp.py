"""A TCP connection as a pipe."""

from __future__ import annotations

import socket

from edge_runtime.errors import RemoteError

_READ_BYTES = 65_536
_CONNECT_TIMEOUT_S = 10.0


class TcpPipe:
    """Connects on construction. Raises RemoteError, with the reason, when nobody listens at ``host``:``port``."""

    kind = "tcp"

    def __init__(self, host: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as fault:  # ValueError: a host that is no name, "a..b" or one with a zero in it
            reason = (isinstance(fault, OSError) and fault.strerror) or str(fault)
            raise RemoteError(f"no coordinator answers at {host}:{port} ({reason}): is it running?") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def read(self, timeout_s: float) -> bytes | None:
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            return self._socket.recv(_READ_BYTES)
        except TimeoutError:
            return None
        except OSError as fault:
            raise RemoteError(f"the connection broke: {fault.strerror or fault}") from None

    def write(self, data: bytes, timeout_s: float) -> None:
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            self._socket.sendall(data)
        except OSError as fault:
            raise RemoteError(f"the connection broke: {fault.strerror or fault}") from None

    def close(self) -> None:
        self._socket.close()
