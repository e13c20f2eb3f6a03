"""What carries the bytes of a conversation: TCP or a serial line. A new transport is one module with a class like ``TcpPipe``."""

from __future__ import annotations

from edge_runtime.conversation import Pipe
from edge_runtime.errors import LocalError


def open_pipe(address: str) -> Pipe:
    """Connect to ``HOST:PORT``, ``tcp:HOST:PORT`` or ``serial:PORT[@BAUD]``.

    Raises LocalError for an address that is none of these, RemoteError when nobody answers there.
    """
    if address.startswith("serial:"):
        from edge_runtime.transports.serial import SerialPipe

        port, _, baud = address.removeprefix("serial:").partition("@")
        if baud and not baud.isdigit():
            raise LocalError(f'the baud rate "{baud}" in {address} is not a number')
        return SerialPipe(port, baud=int(baud or 115_200))
    from edge_runtime.transports.tcp import TcpPipe

    host, colon, port = address.removeprefix("tcp:").rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65_536):
        raise LocalError(f'"{address}" is no address: want HOST:PORT or serial:PORT')
    return TcpPipe(host.strip("[]"), int(port))
