"""A link on a real port: one thread owns the port and the link, callers read and write streams and may block.

The session outlives the port. When the cable is pulled the thread keeps the link, opens the same stable name again
when it comes back, and the peers go on where they stopped; nothing is lost and nothing comes twice. Only a restarted
peer ends a session, and that is told to whoever reads or writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import termios
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from firmware_bridge.errors import DeviceFault, FedgeError, LocalError, RemoteError
from firmware_bridge.link import Data, Incompatible, Link, LinkStats, LinkUp, PeerReset, new_epoch
from firmware_bridge.ports import open_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import serial

__all__ = ["LineEvent", "LineLost", "LineRestored", "LinkPort", "PeerResetError"]

_COLLECT_S = 0.002  # a byte wakes the thread, which then waits for its successors: one wake-up for many bytes
_REOPEN_S = (0.1, 1.0)
_DTR_PATIENCE_S = 4.0
_POLL_S = 0.02  # for URLs without a file descriptor (rfc2217://)


class PeerResetError(RemoteError):
    """The peer restarted: what this stream carried before is over, and the next bytes belong to a new session."""


@dataclass(frozen=True, slots=True)
class LineLost:
    """The port went away; the session waits for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class LineRestored:
    """The port is open again."""


LineEvent: TypeAlias = LinkUp | PeerReset | Incompatible | LineLost | LineRestored


class _Stream:
    """Bytes that arrived for one stream, with a PeerReset where a session ended."""

    def __init__(self) -> None:
        self.chunks: deque[bytes | PeerReset] = deque()

    def take(self, limit_bytes: int) -> bytes:
        """Up to ``limit_bytes`` of what lies before the next reset; PeerResetError when that comes first."""
        parts: list[bytes] = []
        room = limit_bytes
        while room and self.chunks:
            chunk = self.chunks[0]
            if isinstance(chunk, PeerReset):
                if parts:
                    break
                self.chunks.popleft()
                raise _reset_error(chunk)
            if len(chunk) > room:
                self.chunks[0] = chunk[room:]
                chunk = chunk[:room]
            else:
                self.chunks.popleft()
            parts.append(chunk)
            room -= len(chunk)
        return b"".join(parts)

    def pass_reset(self) -> int:
        """Drops everything up to the last reset; returns how many bytes that were."""
        dropped = 0
        while any(isinstance(chunk, PeerReset) for chunk in self.chunks):
            chunk = self.chunks.popleft()
            dropped += 0 if isinstance(chunk, PeerReset) else len(chunk)
        return dropped

    @property
    def reset(self) -> PeerReset | None:
        return next((chunk for chunk in self.chunks if isinstance(chunk, PeerReset)), None)


class LinkPort:
    """A port with a link on it. All methods may be called from any thread.

    ``url`` is a device (best by /dev/serial/by-id), a pty, ``socket://host:port`` or ``rfc2217://host:port``; ``baud``
    also paces what is written, whatever the port is. ``on_event`` is called in the port's thread and must not block.

    Data of a stream that nobody reads fills the receive buffer and then stops the peer, on all streams: read every
    stream that the peer may use.

    With ``wait_for_port`` a missing port is waited for instead of raising PortNotReady.
    """

    def __init__(
        self,
        url: str,
        *,
        baud: int = 115200,
        identity: bytes = b"",
        max_payload_bytes: int = 240,
        receive_buffer_bytes: int = 65536,
        keepalive_s: float = 0.0,
        epoch: int | None = None,
        wait_for_port: bool = False,
        on_event: Callable[[LineEvent], None] | None = None,
    ) -> None:
        self.url = url
        self._baud = baud
        self._dtr: bool | None = None
        self._link = Link(
            epoch=epoch or new_epoch(),
            line_rate_bps=baud,
            max_payload_bytes=max_payload_bytes,
            identity=identity,
            receive_buffer_bytes=receive_buffer_bytes,
            keepalive_s=keepalive_s,
            now_s=time.monotonic(),
        )
        self._on_event = on_event
        self._changed = threading.Condition()
        self._streams: dict[int, _Stream] = {}
        self._peer_identity: bytes | None = None
        self._closing = False
        self._failure: Exception | None = None
        self._port: serial.SerialBase | None = None
        self._unwritten = b""
        self._opened_at_s = 0.0
        self._up_since_open = False
        try:
            self._open()
        except DeviceFault:
            if not wait_for_port:
                raise
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name=f"line {url}", daemon=True)
        self._thread.start()

    # ---- for callers ----------------------------------------------------------------------------------------------

    def wait_up(self, timeout_s: float | None) -> bool:
        """Waits until a session is up; whether it is. ``timeout_s`` None waits for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._link.connected or self._over, timeout_s)
            self._check()
            return self._link.connected

    def read(self, stream: int, timeout_s: float | None, limit_bytes: int = 65536) -> bytes:
        """The next bytes of ``stream``, as many as there are up to ``limit_bytes``; b"" if none come within
        ``timeout_s``.

        Raises PeerResetError once when the peer restarted, after the last bytes of the session that ended.
        """
        with self._changed:
            inbox = self._stream(stream)
            self._changed.wait_for(lambda: inbox.chunks or self._over, timeout_s)
            if not inbox.chunks:
                self._check()
                return b""
            data = inbox.take(limit_bytes)
            self._link.consume(len(data))
        self._wake()
        return data

    def write(self, stream: int, data: bytes, timeout_s: float | None) -> int:
        """Hands bytes to the link, waiting for a session and for room; returns how many it took within ``timeout_s``.

        Raises PeerResetError instead, once, when the peer restarted since the stream was last used; bytes of the
        session that ended and were not read are then dropped.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        written = 0
        with self._changed:
            inbox = self._stream(stream)
            while True:
                self._check()
                if (reset := inbox.reset) is not None:
                    self._link.consume(inbox.pass_reset())
                    self._wake()
                    raise _reset_error(reset)
                if taken := self._link.send(stream, data[written : written + 16384], time.monotonic()):
                    written += taken
                    self._wake()
                if written == len(data):
                    return written
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if not taken and ((left_s is not None and left_s <= 0) or not self._changed.wait(left_s)):
                    return written

    def flush(self, timeout_s: float | None) -> bool:
        """Waits until the peer has acknowledged everything written; whether it has."""
        with self._changed:
            self._changed.wait_for(lambda: not self._link.unacked_bytes or self._over, timeout_s)
            self._check()
            return not self._link.unacked_bytes

    def close(self) -> None:
        """Stops the thread and gives the port back. Unacknowledged bytes are dropped: ``flush`` first. May be
        repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> LinkPort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a session is up, even if the line is silent just now."""
        with self._changed:
            return self._link.connected

    @property
    def plugged(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    @property
    def peer_identity(self) -> bytes | None:
        """What the peer calls itself; None before the first session."""
        return self._peer_identity

    @property
    def unacked_bytes(self) -> int:
        with self._changed:
            return self._link.unacked_bytes

    @property
    def quiet_s(self) -> float:
        """Seconds since the peer was last heard; only a ``keepalive_s`` bounds it on an idle line."""
        with self._changed:
            self._link.receive(b"", time.monotonic())
            return self._link.quiet_s

    @property
    def stats(self) -> LinkStats:
        with self._changed:
            return self._link.stats

    @property
    def _over(self) -> bool:
        return self._closing or self._failure is not None

    def _check(self) -> None:
        if self._failure is not None:
            raise DeviceFault(f"{self.url}: the port's thread ended: {self._failure}") from self._failure
        if self._closing:
            raise LocalError(f"{self.url}: closed")

    def _stream(self, stream: int) -> _Stream:
        if not 0 <= stream <= 255:
            raise LocalError(f"stream is {stream}; want 0..255")
        return self._streams.setdefault(stream, _Stream())

    def _wake(self) -> None:
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(OSError):  # full: awake already; closed: nobody left to wake
                os.write(self._wake_write, b"\0")

    # ---- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reopen_s = _REOPEN_S[0]
        try:
            while not self._closing:
                try:
                    if self._port is None:
                        self._open()
                        reopen_s = _REOPEN_S[0]
                        self._tell(LineRestored())
                    self._turn()
                except (OSError, FedgeError) as error:
                    self._lose(error)
                    select.select([self._wake_read], [], [], reopen_s)
                    self._drain_wakes()
                    reopen_s = min(reopen_s * 2, _REOPEN_S[1])
        except Exception as error:
            self._failure = error
        finally:
            self._close_port()
            with self._changed:
                self._changed.notify_all()
                os.close(self._wake_read)
                os.close(self._wake_write)
                self._wake_write = -1

    def _turn(self) -> None:
        """Sends what is due, waits for bytes, time or a caller, and takes what came."""
        now_s = time.monotonic()
        with self._changed:
            if not self._unwritten:
                self._unwritten = self._link.bytes_to_send(now_s)
            wakeup_at_s = self._link.wakeup_at()
        self._nudge_dtr(now_s)
        wait_s = None if wakeup_at_s is None else max(0.0, wakeup_at_s - now_s)
        if self._unwritten:
            wait_s = None
        data = self._exchange(wait_s)
        if data:
            self._take(data)

    def _exchange(self, wait_s: float | None) -> bytes:
        port = self._port
        assert port is not None
        try:
            fd = port.fileno()
        except (OSError, AttributeError, NotImplementedError):
            return self._exchange_polling(port, wait_s)
        readable, writable, _ = select.select([fd, self._wake_read], [fd] if self._unwritten else [], [], wait_s)
        self._drain_wakes()
        if writable:
            with contextlib.suppress(BlockingIOError):
                self._unwritten = self._unwritten[os.write(fd, self._unwritten) :]
        if fd not in readable:
            return b""
        time.sleep(_COLLECT_S)
        try:
            data = os.read(fd, 16384)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("the other end hung up")
        return data

    def _exchange_polling(self, port: serial.SerialBase, wait_s: float | None) -> bytes:
        if self._unwritten:
            port.write(self._unwritten)
            self._unwritten = b""
        data = port.read(4096)  # returns what is there: the port was opened with timeout 0
        if not data:
            select.select([self._wake_read], [], [], _POLL_S if wait_s is None else min(wait_s, _POLL_S))
            self._drain_wakes()
        return bytes(data)

    def _take(self, data: bytes) -> None:
        told: list[LineEvent] = []
        with self._changed:
            for event in self._link.receive(data, time.monotonic()):
                match event:
                    case Data(stream, payload):
                        self._stream(stream).chunks.append(payload)
                        continue
                    case PeerReset():
                        for inbox in self._streams.values():
                            inbox.chunks.append(event)
                    case LinkUp(identity):
                        self._peer_identity = identity
                        self._up_since_open = True
                    case Incompatible():
                        pass
                told.append(event)
            self._changed.notify_all()
        for news in told:
            self._tell(news)

    def _tell(self, event: LineEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _open(self) -> None:
        self._port = open_port(self.url, baud=self._baud, dtr=self._dtr)
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):
            os.set_blocking(self._port.fileno(), False)
        self._opened_at_s = time.monotonic()
        self._up_since_open = self._link.connected

    def _nudge_dtr(self, now_s: float) -> None:
        """Opening a port raises DTR, which resets an Arduino (it needs about 2 s) and keeps some ESP32 boards in
        reset: when nobody has answered for a while, try the other level."""
        if self._up_since_open or now_s - self._opened_at_s < _DTR_PATIENCE_S or self._port is None:
            return
        self._opened_at_s = now_s
        self._dtr = self._dtr is False
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):  # a pty and a socket have no such wire
            self._port.dtr = self._port.rts = self._dtr

    def _lose(self, error: Exception) -> None:
        if self._port is not None:
            self._close_port()
            self._tell(LineLost(str(error)))

    def _close_port(self) -> None:
        port, self._port = self._port, None
        self._unwritten = b""
        if port is None:
            return
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):
            # The lock goes with the last descriptor, and somebody else may hold one on a pty: unlock by hand.
            fcntl.ioctl(port.fileno(), termios.TIOCNXCL)
        leaked = getattr(port, "_socket", None)
        with contextlib.suppress(OSError):
            port.close()
        if leaked is not None:
            leaked.close()  # pyserial 3.5 forgets to when the peer hung up first

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)


def _reset_error(event: PeerReset) -> PeerResetError:
    return PeerResetError(f"the peer restarted (session {event.ended_epoch:#010x} is over); begin the stream anew")
