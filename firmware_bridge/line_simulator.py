"""A serial line made of two ptys: paced at its baud rate in both directions, and as bad as one asks for."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import shutil
import tempfile
import threading
import time
import tty
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from firmware_bridge.errors import DeviceFault, LocalError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LineSimulator"]

_TICK_S = 0.002
_FIFO_BYTES = 256  # what a side may have in flight; beyond it the writer waits, as on a full UART


class _End:
    """One pty. Our own descriptor of the slave stays open, else the master reads EIO whenever nobody else has it
    open."""

    def __init__(self, link: Path) -> None:
        try:
            self.master, self._slave = pty.openpty()
        except OSError as error:
            raise DeviceFault(f"the system gives no more pseudo-terminals: {error.strerror}") from error
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.link = link
        temporary = link.with_suffix(".new")
        temporary.symlink_to(os.ttyname(self._slave))
        temporary.replace(link)

    def read(self, limit: int) -> bytes:
        try:
            return os.read(self.master, limit)
        except (BlockingIOError, OSError):
            return b""

    def write(self, data: bytes) -> None:
        """Bytes that nobody takes are lost, as on a line."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self.master, data)

    def close(self) -> None:
        self.link.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self.master)


class _Direction:
    """Bytes on their way from one end to the other. ``budget`` counts bytes the line could have carried by now."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.budget = 0.0
        self.carried_bytes = 0


class LineSimulator:
    """A full-duplex line between the ttys ``a`` and ``b``. A context manager; runs in a thread of its own.

    Each byte takes 10 bits at ``baud``. With probability ``corrupt`` it is hit: replaced by another
    (``mode="replace"``) or swallowed (``mode="lose"``), drawn per direction from ``seed``. ``a`` and ``b`` are links
    with names that stay when the tty behind them changes, as those in /dev/serial/by-id do.
    """

    def __init__(
        self,
        *,
        baud: int = 115200,
        corrupt: float = 0.0,
        mode: Literal["replace", "lose"] = "replace",
        seed: int = 0,
    ) -> None:
        if not 0.0 <= corrupt < 1.0 or baud < 50 or mode not in ("replace", "lose"):
            raise LocalError(
                f"want 0 <= corrupt < 1, baud >= 50, mode replace or lose; got {corrupt}, {baud}, {mode!r}"
            )
        self._baud = baud
        self._corrupt = corrupt
        self._mode = mode
        self._lock = threading.Lock()
        self._directory = Path(tempfile.mkdtemp(prefix="fedge-line-"))
        self.a = str(self._directory / "a")
        self.b = str(self._directory / "b")
        self._ends: list[_End] = []
        self._directions = [_Direction(f"{seed}/a"), _Direction(f"{seed}/b")]
        self._plugged = True
        self._closing = False
        self._make_ends()
        self._thread = threading.Thread(target=self._run, name="line simulator", daemon=True)
        self._thread.start()

    def unplug(self, *, vanish: bool = False) -> None:
        """Loses every byte from now on. With ``vanish`` the ttys go away too, as those of a USB adapter do."""
        with self._lock:
            self._plugged = False
            for direction in self._directions:
                direction.waiting.clear()
                direction.waiting_bytes = 0
            if vanish:
                self._drop_ends()

    def plug(self) -> None:
        """Carries bytes again; new ttys under the old names if they had vanished."""
        with self._lock:
            if not self._ends:
                self._make_ends()
            self._plugged = True

    def close(self) -> None:
        """Stops and removes the ttys. May be repeated."""
        self._closing = True
        self._thread.join()
        with self._lock:
            self._drop_ends()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> LineSimulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Bytes that entered the line so far, from ``a`` and from ``b``, those that it then lost included."""
        return self._directions[0].carried_bytes, self._directions[1].carried_bytes

    def _make_ends(self) -> None:
        self._ends = [_End(Path(self.a)), _End(Path(self.b))]

    def _drop_ends(self) -> None:
        for end in self._ends:
            end.close()
        self._ends = []

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._closing:
            busy = any(direction.waiting_bytes for direction in self._directions)
            self._wait(busy)
            now_s = time.monotonic()
            with self._lock:
                self._move((now_s - last_s) * self._baud / 10.0, busy)
            last_s = now_s

    def _wait(self, busy: bool) -> None:
        if busy:
            time.sleep(_TICK_S)
            return
        with self._lock:
            masters = [end.master for end in self._ends]
        try:
            select.select(masters, [], [], 0.1)
        except OSError:  # vanished meanwhile
            time.sleep(_TICK_S)

    def _move(self, allowance: float, was_busy: bool) -> None:
        """Carries what ``allowance`` bytes of airtime allow, then lets new bytes in."""
        for side, direction in enumerate(self._directions):
            if not self._ends:
                return
            # Airtime cannot be saved up: an idle line starts from nothing.
            direction.budget = direction.budget + allowance if was_busy and direction.waiting_bytes else 0.0
            ready = bytearray()
            while direction.waiting and len(direction.waiting[0]) <= direction.budget:
                chunk = direction.waiting.popleft()
                direction.waiting_bytes -= len(chunk)
                direction.budget -= len(chunk)
                ready += chunk
            if ready:
                self._ends[1 - side].write(self._spoil(direction, bytes(ready)))
            room = _FIFO_BYTES - direction.waiting_bytes
            data = self._ends[side].read(room) if room > 0 else b""
            direction.carried_bytes += len(data)
            if self._plugged:
                for start in range(0, len(data), 16):  # a UART hands over a FIFO of 16 at a time
                    direction.waiting.append(data[start : start + 16])
                direction.waiting_bytes += len(data)

    def _spoil(self, direction: _Direction, data: bytes) -> bytes:
        if self._corrupt == 0.0:
            return data
        out = bytearray()
        for byte in data:
            if direction.random.random() >= self._corrupt:
                out.append(byte)
            elif self._mode == "replace":
                out.append(byte ^ direction.random.randrange(1, 256))
        return bytes(out)
