"""A reliable, ordered, full-duplex link over a serial line, without I/O: bytes and times in, bytes and events out.

The state machine is csrc/fedge_link.c, the same that the microcontroller runs; here are its queue and its types.
Whoever drives a link does, for ever:

    events = link.receive(bytes_from_the_line, now_s)
    line.write(link.bytes_to_send(now_s))
    sleep until link.wakeup_at() or until the line has bytes
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError

__all__ = ["Data", "Event", "Incompatible", "Link", "LinkStats", "LinkUp", "PeerReset", "new_epoch"]

PROTOCOL_VERSION = 1
MAX_IDENTITY_BYTES = 32
_WINDOW = 8


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A session began with the peer that calls itself ``peer_identity``."""

    peer_identity: bytes
    peer_epoch: int


@dataclass(frozen=True, slots=True)
class Data:
    """The next bytes of the session in order; how they are cut means nothing."""

    stream: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerReset:
    """The session ended because the peer started anew. What it had not acknowledged may be lost and is dropped here; a
    ``LinkUp`` follows."""

    ended_epoch: int


@dataclass(frozen=True, slots=True)
class Incompatible:
    """The peer speaks another version of the protocol."""

    version: int


Event: TypeAlias = LinkUp | Data | PeerReset | Incompatible


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Counts since the link was made, modulo 2^32, and two estimates."""

    frames_sent: int
    bytes_sent: int
    frames_received: int
    bytes_received: int
    frames_resent: int
    frames_bad: int  # refused by CRC, COBS or length
    frames_foreign: int  # good, but of another session
    frames_duplicate: int
    rtt_s: float  # smoothed; 0 while unknown
    byte_error_rate: float  # what the sender believes of the line, from its own frames


def new_epoch() -> int:
    """A nonce for one life of one side, from the system's generator: 1..2^32-1."""
    return secrets.randbelow(0xFFFFFFFF) + 1


class Link:
    """One side of a link. Not for several threads at once.

    ``epoch`` is this side's nonce (see ``new_epoch``); the link changes it itself when a session ends.
    ``line_rate_bps`` paces what is handed out (10 bits a byte) and bounds the timers; with ``paced=False`` the caller
    asks for bytes only when the line can take them. ``keepalive_s`` > 0 sends a 13-byte PING after hearing nothing for
    so long.

    With ``receive_buffer_bytes`` = 0 every ``Data`` counts as consumed when ``receive`` returns it. Otherwise the peer
    is never allowed to send more than that many bytes beyond what ``consume`` has reported: a slow reader loses
    nothing.
    """

    def __init__(
        self,
        *,
        epoch: int,
        line_rate_bps: int = 115200,
        max_payload_bytes: int = 240,
        identity: bytes = b"",
        receive_buffer_bytes: int = 0,
        send_queue_bytes: int = 16384,
        keepalive_s: float = 0.0,
        paced: bool = True,
        now_s: float = 0.0,
    ) -> None:
        if len(identity) > MAX_IDENTITY_BYTES:
            raise LocalError(f"identity has {len(identity)} bytes; at most {MAX_IDENTITY_BYTES} fit into a HELLO")
        if receive_buffer_bytes and receive_buffer_bytes < max_payload_bytes:
            raise LocalError(f"receive_buffer_bytes is {receive_buffer_bytes}; one payload is {max_payload_bytes}")
        try:
            self._core = _codec.LinkCore(
                epoch=epoch,
                line_rate_bps=line_rate_bps,
                max_payload_bytes=max_payload_bytes,
                identity=identity,
                keepalive_us=round(keepalive_s * 1e6),
                send_window=_WINDOW,
                receive_window=_WINDOW,
                paced=paced,
                now_s=now_s,
            )
        except (ValueError, OverflowError) as error:
            raise LocalError(
                "want epoch in 1..2^32-1, line_rate_bps in 300..10^7, max_payload_bytes in 64..256, "
                f"keepalive_s in 0..4000; got {epoch}, {line_rate_bps}, {max_payload_bytes}, {keepalive_s}"
            ) from error
        self._max_payload_bytes = max_payload_bytes
        self._queue: deque[tuple[int, memoryview]] = deque()
        self._queued_bytes = 0
        self._send_queue_bytes = send_queue_bytes
        self._buffer_bytes = receive_buffer_bytes
        self._held_bytes = 0
        self._grant()

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """Takes bytes from the line, any amount, cut anywhere; returns what they bring about, in order."""
        events: list[Event] = []
        for kind, stream, epoch, payload in self._core.receive(data, now_s):
            match kind:
                case 1:
                    events.append(LinkUp(payload, epoch))
                case 2:
                    events.append(Data(stream, payload))
                    self._held_bytes += len(payload)
                case 3:
                    self._queue.clear()
                    self._queued_bytes = 0
                    events.append(PeerReset(epoch))
                case _:
                    events.append(Incompatible(epoch))
        if not self._buffer_bytes:
            self._held_bytes = 0
        self._grant()
        self._feed()
        return events

    def send(self, stream: int, data: bytes, now_s: float) -> int:
        """Queues bytes for ``stream`` (0..255) and returns how many fitted: 0 when the queue is full or no session is
        up."""
        if not 0 <= stream <= 255:
            raise LocalError(f"stream is {stream}; want 0..255")
        if not self._core.up:
            return 0
        accepted = min(len(data), self._send_queue_bytes - self._queued_bytes)
        if accepted > 0:
            self._queue.append((stream, memoryview(bytes(data[:accepted]))))
            self._queued_bytes += accepted
            self._feed()
        return max(accepted, 0)

    def bytes_to_send(self, now_s: float, limit: int = 4096) -> bytes:
        """Whole frames for the line, at most about ``limit`` bytes; b"" when nothing is due."""
        self._feed()
        return self._core.transmit(now_s, limit)

    def wakeup_at(self) -> float | None:
        """When ``bytes_to_send`` will next have something though nothing happens before; None if never."""
        return self._core.wakeup_at()

    def consume(self, count_bytes: int) -> None:
        """Says that so many bytes of earlier ``Data`` have left the receive buffer. No-op without a buffer bound."""
        self._held_bytes = max(0, self._held_bytes - count_bytes)
        self._grant()

    @property
    def connected(self) -> bool:
        """Whether a session is up. A silent line does not end a session: see ``quiet_s``."""
        return self._core.up

    @property
    def unacked_bytes(self) -> int:
        """Bytes that ``send`` accepted and the peer has not acknowledged."""
        return self._core.unacked_bytes + self._queued_bytes

    @property
    def quiet_s(self) -> float:
        """Seconds from the last frame of this session to the last call with a time."""
        return self._core.quiet_s

    @property
    def epoch(self) -> int:
        """This side's nonce, of the present session."""
        return self._core.epoch

    @property
    def peer_epoch(self) -> int:
        """The peer's nonce, 0 while unknown."""
        return self._core.peer_epoch

    @property
    def payload_bytes(self) -> int:
        """The longest payload that both sides accept."""
        return self._core.payload_limit

    @property
    def stats(self) -> LinkStats:
        return LinkStats(*self._core.stats())

    def _feed(self) -> None:
        while self._queue:
            stream, data = self._queue[0]
            taken = self._core.send(stream, data)
            self._queued_bytes -= taken
            if taken < len(data):
                self._queue[0] = (stream, data[taken:])
                return
            self._queue.popleft()

    def _grant(self) -> None:
        # Whole payloads only: the peer counts frames, and any frame may be a full one. Since a frame takes at most
        # what was set aside for it, credit once given is never taken back.
        room = self._buffer_bytes - self._held_bytes if self._buffer_bytes else 255 * self._max_payload_bytes
        self._core.grant(min(255, max(0, room // self._max_payload_bytes)))
