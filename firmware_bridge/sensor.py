"""A board's sensor, seen from the host: describe, start, and batches of samples in physical units with host times."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from firmware_bridge.errors import FedgeError, LocalError, RemoteError
from firmware_bridge.records import (
    SENSOR_STREAM,
    BadRecord,
    BoardTime,
    Command,
    CommandResult,
    End,
    Outcome,
    Record,
    RecordDecoder,
    Samples,
    SensorDescription,
    encode_command,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from firmware_bridge.line import LinkPort

__all__ = ["Batch", "ClockOffset", "SensorReader", "SensorSilent"]


class SensorSilent(RemoteError):
    """The board did not answer, or sent no samples, in the time it was given."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """host time = board time + ``offset_s``, true within ``error_s`` when it was measured."""

    offset_s: float
    error_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive samples. A batch has no gap inside; ``missed`` samples are missing between the one before and
    this."""

    values: NDArray[np.float64]  # (samples, channels), physical units
    raw: NDArray[np.signedinteger]  # (samples, channels), as sent
    times_s: NDArray[np.float64]  # (samples,), Unix time by the measured offset; board time where none was measured
    first_us: int  # board clock
    sequence: int
    missed: int


class SensorReader:
    """Talks to the board on ``port``, whose sensor stream is this reader's alone.

    ``clock`` gives Unix time in seconds. PeerResetError passes through every method when the board restarts: begin
    again with ``describe``. A board that talks nonsense raises BadRecord.
    """

    def __init__(self, port: LinkPort, *, clock: Callable[[], float] = time.time) -> None:
        self._port = port
        self._clock = clock
        self._decoder = RecordDecoder()
        self._waiting: deque[Record] = deque()
        self._next_id = 0
        self._expected = 0
        self._description: SensorDescription | None = None
        self._dropped = 0
        self.offset: ClockOffset | None = None

    @property
    def dropped_samples(self) -> int:
        """Samples per channel that the board has dropped since ``start``, as it counts."""
        return self._dropped

    def describe(self, timeout_s: float = 5.0) -> SensorDescription:
        """What the board measures. Also the way to begin after a restart of the board."""
        self._begin_anew()
        self._command(Command.ASK, timeout_s)
        record = self._answer(timeout_s, lambda r: isinstance(r, SensorDescription), "its description")
        assert isinstance(record, SensorDescription)
        self._description = record
        return record

    def set_rate(self, rate_hz: float, timeout_s: float = 5.0) -> None:
        """Samples per second and channel, before ``start``. LocalError if the board refuses."""
        self._obeyed(Command.SET_RATE, timeout_s, rate_hz)
        self._description = None  # it says the rate
        self.describe(timeout_s)

    def start(self, timeout_s: float = 5.0) -> None:
        """Begins sampling at sequence 0."""
        if self._description is None:
            self.describe(timeout_s)
        self._waiting.clear()
        self._expected = 0
        self._dropped = 0
        self._obeyed(Command.START, timeout_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends sampling; samples on their way are dropped."""
        self._obeyed(Command.STOP, timeout_s)
        self._waiting.clear()

    def synchronize(self, rounds: int = 5, timeout_s: float = 5.0) -> ClockOffset:
        """Measures the board's clock against ours: of ``rounds`` questions the one answered fastest bounds the error.
        Best before ``start``, while nothing else is on the line."""
        best: ClockOffset | None = None
        for _ in range(rounds):
            asked_s = self._clock()
            id = self._command(Command.ASK_TIME, timeout_s)
            record = self._answer(timeout_s, partial(_is_time, id), "its time")
            answered_s = self._clock()
            assert isinstance(record, BoardTime)
            error_s = (answered_s - asked_s) / 2
            if best is None or error_s < best.error_s:
                best = ClockOffset((asked_s + answered_s) / 2 - record.board_us * 1e-6, error_s)
        if best is None:
            raise LocalError(f"rounds is {rounds}; want at least 1")
        self.offset = best
        return best

    def batches(self, timeout_s: float = 10.0) -> Iterator[Batch]:
        """Batches as they arrive, until the board says END. SensorSilent if none comes within ``timeout_s``."""
        while True:
            record = self._answer(timeout_s, lambda r: isinstance(r, Samples | End), "samples")
            if isinstance(record, End):
                self._dropped = record.dropped
                return
            assert isinstance(record, Samples)
            yield self._physical(record)

    def _physical(self, samples: Samples) -> Batch:
        description = self._description
        if description is None:
            raise BadRecord("samples before a description")
        count, channels = samples.raw.shape
        if channels != len(description.channels) or samples.raw.dtype != description.sample_type.dtype:
            raise BadRecord(
                f"samples have {channels} channels of {samples.raw.dtype}; the description promised "
                f"{len(description.channels)} of {description.sample_type.dtype}"
            )
        missed = (samples.sequence - self._expected) & 0xFFFFFFFF
        if missed >= 1 << 31:
            raise BadRecord(f"samples go back to {samples.sequence}; {self._expected} was due")
        self._expected = (samples.sequence + count) & 0xFFFFFFFF
        self._dropped = samples.dropped
        scale = np.array([channel.scale for channel in description.channels])
        offset = np.array([channel.offset for channel in description.channels])
        start_s = samples.first_us * 1e-6 + (self.offset.offset_s if self.offset else 0.0)
        return Batch(
            values=samples.raw * scale + offset,
            raw=samples.raw,
            times_s=start_s + np.arange(count) / description.rate_hz,
            first_us=samples.first_us,
            sequence=samples.sequence,
            missed=missed,
        )

    def _begin_anew(self) -> None:
        self._decoder = RecordDecoder()
        self._waiting.clear()

    def _obeyed(self, command: Command, timeout_s: float, rate_hz: float = 0.0) -> None:
        id = self._command(command, timeout_s, rate_hz)
        record = self._answer(timeout_s, lambda r: isinstance(r, CommandResult) and r.id == id, f"{command.name}")
        assert isinstance(record, CommandResult)
        if record.outcome is not Outcome.DONE:
            detail = f" {rate_hz} Hz" if command is Command.SET_RATE else ""
            raise LocalError(f"{self._port.url}: the board refuses {command.name}{detail}: {record.outcome.name}")

    def _command(self, command: Command, timeout_s: float, rate_hz: float = 0.0) -> int:
        if not self._port.wait_up(timeout_s):
            raise SensorSilent(
                f"{self._port.url}: no board answers within {timeout_s} s; is it flashed, is the baud rate right?"
            )
        id = self._next_id
        self._next_id = (id + 1) & 0xFF
        record = encode_command(command, id=id, rate_hz=rate_hz)
        if self._port.write(SENSOR_STREAM, record, timeout_s) != len(record):
            raise SensorSilent(f"{self._port.url}: the line has been blocked for {timeout_s} s")
        return id

    def _answer(self, timeout_s: float, wanted: Callable[[Record], bool], what: str) -> Record:
        """The next record that is ``wanted``; samples that come before it stay for ``batches``, other records are old
        news."""
        skipped: list[Record] = []
        deadline_s = time.monotonic() + timeout_s
        try:
            while True:
                while self._waiting:
                    record = self._waiting.popleft()
                    if wanted(record):
                        return record
                    if isinstance(record, Samples | End):
                        skipped.append(record)
                data = self._port.read(SENSOR_STREAM, max(0.0, deadline_s - time.monotonic()))
                if not data:
                    raise SensorSilent(f"{self._port.url}: the board did not send {what} within {timeout_s} s")
                self._waiting.extend(self._decoder.push(data))
        except FedgeError:
            skipped.clear()
            raise
        finally:
            self._waiting.extendleft(reversed(skipped))


def _is_time(id: int, record: Record) -> bool:
    return isinstance(record, BoardTime) and record.id == id
