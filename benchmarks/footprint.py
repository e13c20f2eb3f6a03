"""What a device process costs: private memory idle and in rounds, CPU to start, CPU per round.

The peer's figures are Flower 1.42's (a SuperNode with the process of its client app), measured on this kind of machine:
180 MB idle, 270 MB in a round, 1.8 s of CPU per round; ``benchmarks.flower`` measures it beside fedge.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks._fleet import RealFleet, cpu_s, private_mb

_ROUNDS, _DEVICES = 40, 5
_PEER = "Flower 1.42 SuperNode"


def cases() -> Iterator[dict[str, object]]:
    """Idle, start and rounds of real device processes with a model of 10,102 parameters."""
    with tempfile.TemporaryDirectory() as folder, RealFleet(Path(folder), devices=_DEVICES, rounds=_ROUNDS) as fleet:
        for index in range(_DEVICES - 1):
            fleet.start_device(index)
        time.sleep(6.0)  # everybody waits in a long poll for the last one
        idle = [private_mb(process.pid) for process in fleet.devices]
        start = [cpu_s(process.pid) for process in fleet.devices]
        yield _case("device process, idle: private memory", statistics.median(idle), 180.0, "MB")
        yield _case("device process, start to idle: CPU", statistics.median(start), None, "s")
        fleet.start_device(_DEVICES - 1)
        peak = [0.0] * (_DEVICES - 1)
        spent = list(start)
        assert fleet.coordinator is not None
        while fleet.coordinator.poll() is None and all(process.poll() is None for process in fleet.devices):
            for index, process in enumerate(fleet.devices[:-1]):
                try:
                    peak[index] = max(peak[index], private_mb(process.pid))
                    spent[index] = cpu_s(process.pid)
                except (FileNotFoundError, ProcessLookupError, IndexError):
                    break
            time.sleep(0.02)
        per_round = [(after - before) / _ROUNDS for before, after in zip(start, spent, strict=True)]
        yield _case("device process, in rounds: private memory", statistics.median(peak), 270.0, "MB")
        yield _case("device process: CPU per round, first training included", statistics.median(per_round), 1.8, "s")


def _case(name: str, ours: float, peer: float | None, unit: str) -> dict[str, object]:
    return {
        "case": name,
        "ours": ours,
        "peer": peer,
        "ratio": None if peer is None else ours / peer,
        "unit": unit,
        "peer_name": _PEER,
    }
