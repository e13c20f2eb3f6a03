"""How much of a serial line carries payload, and what a megabyte costs the host.

``cases()`` yields dicts: {"case", "ours", "peer", "ratio", "unit", "peer_name"}. Goodput is measured in virtual time,
so it is the same on every machine; CPU time is this machine's. Run as a script it prints a table.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from firmware_bridge.line import LinkPort
from firmware_bridge.line_simulator import LineSimulator
from firmware_bridge.virtual_line import measure_goodput

BAUD = 115200
ERROR_RATES = (0.0, 1e-4, 1e-3)
BYTE_S = 10 / BAUD


def stop_and_wait_share(
    error_rate: float, *, payload_bytes: int, seed: int = 0, transfer_bytes: int = 200_000
) -> float:
    """Share of the line that carries payload when every frame waits for its acknowledgement.

    The peer is granted our framing (12 bytes a frame, 17 an acknowledgement), no latency, and a timer that fires just
    after the acknowledgement could have come: an upper bound for protocols of this kind.
    """
    draw = random.Random(seed)
    frame_bytes, ack_bytes = payload_bytes + 12, 17
    frame_ok, ack_ok = ((1.0 - error_rate) ** size for size in (frame_bytes, ack_bytes))
    delivered, seconds = 0, 0.0
    while delivered < transfer_bytes:
        seconds += (frame_bytes + ack_bytes) * BYTE_S
        if draw.random() < frame_ok and draw.random() < ack_ok:
            delivered += payload_bytes
    return delivered * BYTE_S / seconds


def cpu_seconds_per_megabyte(transfer_bytes: int = 500_000, baud: int = 4_000_000) -> float:
    """CPU time of both LinkPorts and the line between them, which all run in this process, per 10^6 payload bytes."""
    data = random.Random(0).randbytes(transfer_bytes)
    with LineSimulator(baud=baud) as line, LinkPort(line.a, baud=baud) as a, LinkPort(line.b, baud=baud) as b:
        if not (a.wait_up(5) and b.wait_up(5)):
            raise RuntimeError("the link does not come up on this machine's pseudo-terminals")
        before_s = time.process_time()
        writer = threading.Thread(target=a.write, args=(1, data, 120))
        writer.start()
        left = transfer_bytes
        while left:
            left -= len(b.read(1, 30))
        writer.join()
        return (time.process_time() - before_s) * 1e6 / transfer_bytes


def cases() -> Iterator[dict[str, Any]]:
    """Every case, cheapest first."""
    for error_rate in ERROR_RATES:
        name = "clean" if error_rate == 0.0 else f"{error_rate:.0e} of bytes corrupted"
        ours = measure_goodput(baud=BAUD, error_rate=error_rate, seed=1).share
        peers: dict[str, float] = {
            "the line rate itself": 1.0,
            "stop-and-wait, 240-byte frames": stop_and_wait_share(error_rate, payload_bytes=240),
            "stop-and-wait, one float a frame": stop_and_wait_share(error_rate, payload_bytes=4, transfer_bytes=20_000),
        }
        for peer_name, peer in peers.items():
            yield {
                "case": f"goodput at {BAUD} baud, {name}",
                "ours": ours,
                "peer": peer,
                "ratio": ours / peer,
                "unit": "share of line rate",
                "peer_name": peer_name,
            }
    yield {
        "case": "CPU time through two LinkPorts and a simulated line",
        "ours": cpu_seconds_per_megabyte(),
        "peer": None,
        "ratio": None,
        "unit": "s/MB",
        "peer_name": None,
    }
