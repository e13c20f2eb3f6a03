"""What a run has come to: the one picture that the live view, the status command and the report are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.task import Task


@dataclass(frozen=True)
class RoundRecord:
    """A round that was committed (or given up: ``outcome``). Times are seconds since the epoch."""

    number: int
    outcome: Literal["committed", "abandoned"]
    opened_at_s: float
    closed_at_s: float
    cohort: int
    accepted: int
    declined: int
    update_l2: float | None  # norm of the aggregated update
    loss: float | None  # on the coordinator's evaluation set, where it has one
    accuracy: float | None


@dataclass(frozen=True)
class DeviceRecord:
    """One enrolled device. Bytes are those of TLS, on whatever link. ``epsilon`` composes the device's own
    contributions so far, None where a task had no
    mechanism.
    """

    device: str
    name: str
    link: Literal["tcp", "serial", "none"]
    state: Literal["connected", "away"]
    last_seen_s: float | None
    contributions: int
    bytes_up: int
    bytes_down: int
    epsilon: float | None
    note: str  # the last reason it declined for, if any


@dataclass(frozen=True)
class RunHistory:
    """``open_round``: number, answers so far and cohort of the round that is open, if one is."""

    task_id: str
    task: Task
    started_at_s: float
    now_s: float
    state: Literal["gathering", "collecting", "finished"]
    open_round: tuple[int, int, int] | None
    rounds: tuple[RoundRecord, ...]
    devices: tuple[DeviceRecord, ...]
    finished_because: str | None = None

    @property
    def committed(self) -> int:
        """How many rounds have changed the model."""
        return sum(record.outcome == "committed" for record in self.rounds)


@dataclass(frozen=True)
class Comparison:
    """A row of the final table: a way to train, how it scored on the same evaluation set, and what to know about it."""

    label: str
    accuracy: float | None
    loss: float
    epsilon: float | None  # per device; None: no guarantee
    note: str
