"""Two links over a paced, faulty line in virtual time: the shipped state machines, no sleeping, the same every time."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from firmware_bridge.link import Data, Event, Link, PeerReset

__all__ = ["Goodput", "VirtualLine", "measure_goodput"]


@dataclass(frozen=True, slots=True)
class Goodput:
    """What a transfer made of the line. ``share`` = payload bytes delivered * 10 bits / bits the line could carry."""

    delivered_bytes: int
    line_bits: int
    seconds: float
    frames_resent: int

    @property
    def share(self) -> float:
        return self.delivered_bytes * 10 / self.line_bits


class VirtualLine:
    """A full-duplex line between ``links[0]`` and ``links[1]``.

    Every byte takes 10 bits of airtime at ``baud`` plus ``latency_s``, and is replaced by another (or lost, with
    ``mode="lose"``) with probability ``error_rate``, drawn from ``seed``.
    """

    def __init__(
        self,
        links: tuple[Link, Link],
        *,
        baud: int = 115200,
        error_rate: float = 0.0,
        mode: str = "replace",
        seed: int = 0,
        latency_s: float = 0.0,
    ) -> None:
        self.links = links
        self.now_s = 0.0
        self.plugged = True
        self.events: tuple[list[Event], list[Event]] = ([], [])
        self._byte_s = 10.0 / baud
        self._error_rate = error_rate
        self._mode = mode
        self._latency_s = latency_s
        self._random = random.Random(seed)
        self._free_at_s = [0.0, 0.0]
        self._arrivals: list[tuple[float, int, int, bytes]] = []
        self._order = 0

    def step(self, until_s: float) -> bool:
        """Goes on to the next thing that happens, at ``until_s`` at the latest; False when nothing is left before
        it."""
        for side in (0, 1):
            while data := self.links[side].bytes_to_send(self.now_s, 1):
                self._launch(side, data)
        times = [t for link in self.links if (t := link.wakeup_at()) is not None]
        if self._arrivals:
            times.append(self._arrivals[0][0])
        next_s = max(self.now_s, min(times, default=until_s))
        if next_s >= until_s:
            self.now_s = until_s
            return False
        self.now_s = next_s
        while self._arrivals and self._arrivals[0][0] <= self.now_s:
            _, _, to, data = heapq.heappop(self._arrivals)
            self.events[to].extend(self.links[to].receive(data, self.now_s))
        return True

    def run(self, until_s: float) -> None:
        while self.step(until_s):
            pass

    def _launch(self, side: int, data: bytes) -> None:
        start_s = max(self.now_s, self._free_at_s[side])
        self._free_at_s[side] = start_s + len(data) * self._byte_s
        data = self._spoil(data) if self.plugged else b""
        self._order += 1
        heapq.heappush(self._arrivals, (self._free_at_s[side] + self._latency_s, self._order, 1 - side, data))

    def _spoil(self, data: bytes) -> bytes:
        if self._error_rate == 0.0:
            return data
        out = bytearray()
        for byte in data:
            if self._random.random() >= self._error_rate:
                out.append(byte)
            elif self._mode == "replace":
                out.append(byte ^ self._random.randrange(1, 256))
        return bytes(out)


def measure_goodput(
    *,
    baud: int = 115200,
    error_rate: float = 0.0,
    mode: str = "replace",
    seed: int = 0,
    transfer_bytes: int = 200_000,
    both_ways: bool = False,
    latency_s: float = 0.0,
    max_payload_bytes: int = 240,
) -> Goodput:
    """Sends ``transfer_bytes`` from side 0 to side 1 (``both_ways``: and back at once) and reports the share of the
    line that carried payload, from the first byte offered to the last one delivered."""
    draw = random.Random(seed + 1)
    links = tuple(
        Link(epoch=draw.randrange(1, 2**32), line_rate_bps=baud, max_payload_bytes=max_payload_bytes) for _ in range(2)
    )
    line = VirtualLine(
        (links[0], links[1]), baud=baud, error_rate=error_rate, mode=mode, seed=seed, latency_s=latency_s
    )
    while not (links[0].connected and links[1].connected):
        line.step(line.now_s + 10.0)
    start_s = line.now_s
    data = draw.randbytes(transfer_bytes)
    sent = [0, 0 if both_ways else transfer_bytes]
    got = [bytearray(data) if not both_ways else bytearray(), bytearray()]
    while len(got[0]) < transfer_bytes or len(got[1]) < transfer_bytes:
        for side in (0, 1):
            sent[side] += links[side].send(1, data[sent[side] : sent[side] + 4096], line.now_s)
        line.step(line.now_s + 10.0)
        for side in (0, 1):
            for event in line.events[side]:
                if isinstance(event, PeerReset):
                    raise AssertionError("a session ended though nobody reset")
                if isinstance(event, Data):
                    got[side] += event.payload
            line.events[side].clear()
    if got[1] != data or got[0] != data:
        raise AssertionError("what was delivered is not what was sent")
    seconds = line.now_s - start_s
    directions = 2 if both_ways else 1
    return Goodput(
        delivered_bytes=transfer_bytes * directions,
        line_bits=round(seconds * baud) * directions,
        seconds=seconds,
        frames_resent=sum(link.stats.frames_resent for link in links),
    )
