"""A serial line as a pipe: the reliable link of ``firmware_bridge`` carries the bytes, TLS runs over it as over TCP."""

from __future__ import annotations

from edge_runtime.errors import FedgeError, RemoteError
from firmware_bridge.line import LinkPort

STREAM = 1  # the link's stream that carries a conversation
_UP_TIMEOUT_S = 15.0  # HELLO is repeated every 0.25 to 2 s; a board that resets on opening takes a few
_GOODBYE_S = 1.0


class SerialPipe:
    """Opens ``port`` and waits for the coordinator's end of the link.

    Raises DeviceFault or LocalError when the port cannot be opened, RemoteError when nobody answers on it. A line
    that is unplugged for a while only delays reading and writing.
    """

    kind = "serial"

    def __init__(self, port: str, *, baud: int) -> None:
        self._port = LinkPort(port, baud=baud, identity=b"fedge-device")
        try:
            up = self._port.wait_up(_UP_TIMEOUT_S)
        except BaseException:
            self._port.close()
            raise
        if not up:
            self._port.close()
            raise RemoteError(
                f"nobody answers on {port} at {baud} baud: is the coordinator running with --serial on the other end, "
                "and is the baud rate the same on both?"
            )

    def read(self, timeout_s: float) -> bytes | None:
        return self._port.read(STREAM, timeout_s) or None

    def write(self, data: bytes, timeout_s: float) -> None:
        written = self._port.write(STREAM, data, timeout_s)
        if written < len(data):
            raise RemoteError(
                f"the line took {written} of {len(data)} bytes within {timeout_s:.0f} s: is it unplugged?"
            )

    def close(self) -> None:
        try:
            self._port.flush(_GOODBYE_S)
        except FedgeError:
            pass  # the port's thread has ended: nothing can be said any more
        finally:
            self._port.close()
