"""Frames on the line, one at a time: for tools, tests and captures. The link itself stays inside C (``link.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError

__all__ = ["MAX_PAYLOAD_BYTES", "Ack", "BadFrame", "Frame", "FrameDecoder", "FrameStatus", "FrameType", "encode_frame"]

MAX_PAYLOAD_BYTES = 256


class FrameType(IntEnum):
    """What a frame is for."""

    HELLO = 1
    DATA = 2
    ACK = 3
    PING = 4
    PONG = 5


class FrameStatus(IntEnum):
    """Why the bytes between two delimiters are no frame."""

    COBS = -1
    CRC = -2
    TOO_SHORT = -3
    TOO_LONG = -4


@dataclass(frozen=True, slots=True)
class Ack:
    """The acknowledgement block: everything before ``cumulative`` has arrived, and ``cumulative + 1 + i`` where bit i
    is set in ``sack``; there is room for ``credit`` sequence numbers from ``cumulative`` on."""

    cumulative: int
    sack: int
    credit: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``type`` is a plain number, 1..15: frames of types to come are still frames."""

    type: int
    session: int = 0
    stream: int = 0
    sequence: int = 0
    payload: bytes = b""
    ack: Ack | None = None


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Bytes between two delimiters that were refused."""

    status: FrameStatus


def encode_frame(frame: Frame) -> bytes:
    """The frame's bytes on the line, closing delimiter included. LocalError if a field is out of its range."""
    ack = None if frame.ack is None else (frame.ack.cumulative, frame.ack.sack, frame.ack.credit)
    try:
        encoded = _codec.encode_frame(frame.type, frame.session, frame.stream, frame.sequence, frame.payload, ack)
    except OverflowError as error:
        raise LocalError(f"a field does not fit its width: {frame}") from error
    if isinstance(encoded, int):
        raise LocalError(
            f"want a type in 1..15 and at most {MAX_PAYLOAD_BYTES} payload bytes; "
            f"got type {frame.type}, {len(frame.payload)} bytes"
        )
    return encoded


class FrameDecoder:
    """Finds frames in a stream of bytes, cut anywhere. Memory is bounded by ``max_payload_bytes``."""

    def __init__(self, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        if not 0 <= max_payload_bytes <= MAX_PAYLOAD_BYTES:
            raise LocalError(f"max_payload_bytes is {max_payload_bytes}; want 0..{MAX_PAYLOAD_BYTES}")
        self._decoder = _codec.Decoder(max_payload_bytes)

    def push(self, data: bytes) -> list[Frame | BadFrame]:
        """The frames that ``data`` completes, and what was refused, in order."""
        found: list[Frame | BadFrame] = []
        for item in self._decoder.push(data):
            if isinstance(item, int):
                found.append(BadFrame(FrameStatus(item)))
            else:
                kind, session, stream, sequence, payload, ack = item
                found.append(Frame(kind, session, stream, sequence, payload, None if ack is None else Ack(*ack)))
        return found
