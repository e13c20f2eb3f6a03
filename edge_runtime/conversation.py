"""A device's side of a connection: one request, one answer, over TLS over whatever carries bytes."""

from __future__ import annotations

import time
from typing import Protocol

from edge_runtime.channel import Channel
from edge_runtime.errors import FedgeError, RemoteError
from edge_runtime.messages import Message, Reply, Request, decode, encode


class Pipe(Protocol):
    """An ordered byte stream. TCP and the serial link each give one (``edge_runtime.transports``)."""

    kind: str

    def read(self, timeout_s: float) -> bytes | None:
        """Some bytes; b"" when the peer has closed; None when nothing came in time."""
        ...

    def write(self, data: bytes, timeout_s: float) -> None:
        """All of ``data``. Raises RemoteError when the peer does not take it in time."""
        ...

    def close(self) -> None: ...


class Conversation:
    """Ask and be answered. Raises RemoteError when the peer goes away, breaks the protocol or stays silent."""

    def __init__(self, pipe: Pipe, channel: Channel, *, timeout_s: float = 20.0) -> None:
        self._pipe, self._channel, self._timeout_s = pipe, channel, timeout_s

    def ask(self, request: Request, *, patience_s: float = 0.0) -> Reply:
        """Send ``request`` and wait for its answer, ``patience_s`` longer than usual."""
        self._channel.send(encode(request))
        self._push()
        deadline_s = time.monotonic() + self._timeout_s + patience_s
        while True:
            remaining_s = deadline_s - time.monotonic()
            data = self._pipe.read(remaining_s) if remaining_s > 0 else None
            if data is None:
                raise RemoteError(f"the coordinator did not answer within {self._timeout_s + patience_s:.0f} s")
            messages = self._channel.receive(data)
            self._push()
            if len(messages) > 1:
                raise RemoteError("the coordinator sent more than one answer")
            if messages:
                return _reply(decode(messages[0], peer="the coordinator"))
            if self._channel.closed or data == b"":
                raise RemoteError("the coordinator closed the connection")

    def close(self) -> None:
        """Say goodbye as well as the line allows, and let go of it."""
        try:
            self._channel.close()
            self._push(timeout_s=0.5)
        except (FedgeError, OSError):
            pass  # the peer may be gone, and that is why we close
        finally:
            self._pipe.close()

    def _push(self, timeout_s: float | None = None) -> None:
        if data := self._channel.bytes_to_send():
            self._pipe.write(data, self._timeout_s if timeout_s is None else timeout_s)


def _reply(message: Message) -> Reply:
    if isinstance(message, Request):
        raise RemoteError(f"the coordinator sent {type(message).__name__}, a device's request")
    return message
