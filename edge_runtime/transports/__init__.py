"""What carries the bytes of a conversation: TCP or a serial line. Another is one module with a class like TcpPipe."""

from __future__ import annotations

from edge_runtime.conversation import Pipe
from edge_runtime.errors import LocalError


def open_pipe(address: str) -> Pipe:
    """Connect to ``HOST:PORT``, ``tcp:HOST:PORT`` or ``serial:PORT[@BAUD]``.

    Raises LocalError for an address that is none of these, RemoteError when nobody answers there.
    """
    if address.startswith("serial:"):
        from edge_runtime.transports.serial import SerialPipe

        port, baud = serial_address(address.removeprefix("serial:"))
        return SerialPipe(port, baud=baud)
    from edge_runtime.transports.tcp import TcpPipe

    return TcpPipe(*host_port(address.removeprefix("tcp:"), want="HOST:PORT or serial:PORT"))


def host_port(address: str, *, want: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets. LocalError says what is wanted otherwise."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65_536):
        raise LocalError(f'"{address}" is no address: want {want}')
    return host.strip("[]"), int(port)


def serial_address(address: str) -> tuple[str, int]:
    """Port and baud rate of ``PORT[@BAUD]``, 115200 where none is given. LocalError when the rate is not a number."""
    port, _, baud = address.partition("@")
    if not port or (baud and not (baud.isascii() and baud.isdecimal() and len(baud) <= 8)):
        raise LocalError(f'"{address}" is no serial line: want PORT or PORT@BAUD')
    return port, int(baud or 115_200)
