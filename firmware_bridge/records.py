"""Sensor records as frozen dataclasses: what a board says of itself, its samples, commands and their answers. No I/O.

The bytes are read and written by csrc/fedge_sensor.c, the same code as on the board; SPEC.md describes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError, RemoteError

__all__ = [
    "SENSOR_STREAM",
    "BadRecord",
    "BoardTime",
    "Channel",
    "Command",
    "CommandResult",
    "End",
    "Outcome",
    "Record",
    "RecordDecoder",
    "SampleType",
    "Samples",
    "SensorDescription",
    "encode_command",
    "encode_description",
    "encode_samples",
]

SENSOR_STREAM = 1


class BadRecord(RemoteError):
    """The board sent what is no sensor record."""


class SampleType(IntEnum):
    """The integers that a board sends."""

    INT16 = 1
    INT32 = 2

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        return np.dtype("<i2") if self is SampleType.INT16 else np.dtype("<i4")


class Command(IntEnum):
    """What a host may ask of a board."""

    ASK = 16
    START = 17
    STOP = 18
    SET_RATE = 19
    ASK_TIME = 20


class Outcome(IntEnum):
    """What became of a command."""

    DONE = 0
    UNKNOWN = 1
    OUT_OF_RANGE = 2
    NOT_NOW = 3


@dataclass(frozen=True, slots=True)
class Channel:
    """One quantity: physical value = ``scale`` * integer + ``offset``, in ``unit`` (UCUM style: "m/s2", "Cel", "1")."""

    name: str
    unit: str
    scale: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """What a board measures. ``rate_hz`` is nominal, per channel."""

    sensor: str
    channels: tuple[Channel, ...]
    sample_type: SampleType
    rate_hz: float


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch without gaps, as integers. ``sequence`` counts from START with the dropped ones, ``dropped`` those
    alone."""

    first_us: int
    sequence: int
    dropped: int
    raw: NDArray[np.signedinteger]  # (samples, channels)


@dataclass(frozen=True, slots=True)
class CommandResult:
    id: int
    command: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BoardTime:
    id: int
    board_us: int


@dataclass(frozen=True, slots=True)
class End:
    """No samples follow until the next START; so many were dropped since the last."""

    dropped: int


Record: TypeAlias = SensorDescription | Samples | CommandResult | BoardTime | End


class RecordDecoder:
    """Bytes of the sensor stream, cut anywhere, to records. Memory is bounded: no record is longer than 1027 bytes."""

    def __init__(self) -> None:
        self._reader = _codec.RecordReader()

    def push(self, data: bytes) -> list[Record]:
        """The records that ``data`` completes. BadRecord on the first that breaks a rule; nothing can be read after
        it."""
        found: list[Record] = []
        for item in self._reader.push(data):
            if isinstance(item, int):
                raise BadRecord("a record declares more than 1024 bytes: no sensor stream; the wrong port?")
            found.append(_read(*item))
        return found


def _read(kind: int, body: bytes) -> Record:
    record: Record | None = None
    match kind:
        case 1:
            record = _read_description(body)
        case 2:
            samples = _codec.read_samples(body)
            if not isinstance(samples, int):
                first_us, sequence, dropped, count, channels, sample_type, values = samples
                raw = np.frombuffer(values, SampleType(sample_type).dtype).reshape(count, channels)
                record = Samples(first_us, sequence, dropped, raw)
        case 3:
            result = _codec.read_result(body)
            if not isinstance(result, int):
                record = CommandResult(result[0], result[1], Outcome(result[2]))
        case 4:
            board = _codec.read_time(body)
            if not isinstance(board, int):
                record = BoardTime(*board)
        case 5:
            dropped = _codec.read_end(body)
            if dropped >= 0:
                record = End(dropped)
        case _:
            raise BadRecord(f"a record of unknown type {kind} ({len(body)} bytes); is the firmware newer?")
    if record is None:
        raise BadRecord(f"a record of type {kind} with {len(body)} bytes breaks a rule of the format")
    return record


def _read_description(body: bytes) -> SensorDescription | None:
    found = _codec.read_describe(body)
    if isinstance(found, int):
        return None
    sensor, rate_mhz, sample_type, channels = found
    try:
        return SensorDescription(
            sensor.decode(),
            tuple(Channel(name.decode(), unit.decode(), scale, offset) for name, unit, scale, offset in channels),
            SampleType(sample_type),
            rate_mhz / 1000.0,
        )
    except UnicodeDecodeError as error:
        raise BadRecord(f"a name in the description is not UTF-8: {error.object!r}") from error


def encode_command(command: Command, *, id: int, rate_hz: float = 0.0) -> bytes:
    """A command record. ``id`` (0..255) comes back in the answer; ``rate_hz`` counts for SET_RATE only."""
    if not (math.isfinite(rate_hz) and 0.0 <= rate_hz <= 1e6):
        raise LocalError(f"rate_hz is {rate_hz}; want 0.001..1000000")
    return _whole(_codec.write_command(command, id, round(rate_hz * 1000)), command)


def encode_description(description: SensorDescription) -> bytes:
    """A DESCRIBE record, as a board sends it."""
    channels = [(c.name.encode(), c.unit.encode(), c.scale, c.offset) for c in description.channels]
    rate_mhz = round(description.rate_hz * 1000)
    record = _codec.write_describe(description.sensor.encode(), rate_mhz, description.sample_type, channels)
    return _whole(record, description)


def encode_samples(samples: Samples) -> bytes:
    """A SAMPLES record, as a board sends it; ``raw`` must be int16 or int32."""
    kind = {2: SampleType.INT16, 4: SampleType.INT32}.get(samples.raw.dtype.itemsize)
    if kind is None or samples.raw.dtype.kind != "i" or samples.raw.ndim != 2:
        raise LocalError(f"want raw (samples, channels) int16 or int32; got {samples.raw.shape} {samples.raw.dtype}")
    values = np.ascontiguousarray(samples.raw, kind.dtype).tobytes()
    record = _codec.write_samples(
        samples.first_us, samples.sequence, samples.dropped, samples.raw.shape[1], kind, values
    )
    return _whole(record, samples)


def _whole(record: bytes | int, what: object) -> bytes:
    if isinstance(record, int):
        raise LocalError(f"out of the format's range (see SPEC.md): {what!r}")
    return record
