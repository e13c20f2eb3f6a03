"""A run as its store tells it: for the live service, and for commands that run beside the coordinator or after it."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from coordinator.config import load_config
from coordinator.history import DeviceRecord, RoundRecord, RunHistory
from coordinator.store import RoundRow, Store, TaskRow
from edge_runtime.errors import LocalError
from edge_runtime.privacy.accountant import PureSpend
from edge_runtime.privacy.laplace import LaplaceEvent

if TYPE_CHECKING:
    from numpy.typing import NDArray

AWAY_AFTER_S = 90.0  # a device that has not asked for so long is not counted on; polls are held for 60 s at most


def history(
    store: Store,
    row: TaskRow,
    *,
    now_s: float,
    connected: set[str],
    state: Literal["gathering", "collecting", "finished"],
    open_round: tuple[int, int, int] | None,
) -> RunHistory:
    """The picture of a task's run as the store has it."""
    counts, declines = store.contribution_counts(row.task_id), store.last_declines(row.task_id)
    answers = store.answers(row.task_id)
    private = row.task.privacy.place != "none"
    event = row.task.privacy.noise().event if private else None
    epsilon = functools.cache(functools.partial(_epsilon, event))  # most devices have contributed equally often
    devices = []
    for device in store.devices():
        contributions = counts.get(device.device, 0)
        devices.append(
            DeviceRecord(
                device=device.device,
                name=device.name,
                link="serial" if device.link == "serial" else "tcp" if device.link == "tcp" else "none",
                state="connected" if device.device in connected else "away",
                last_seen_s=device.last_seen_s,
                contributions=contributions,
                bytes_up=device.bytes_up,
                bytes_down=device.bytes_down,
                epsilon=epsilon(contributions),
                note=declines.get(device.device, ""),
            )
        )
    records = tuple(_record(round_row, answers) for round_row in store.rounds(row.task_id) if round_row.outcome)
    return RunHistory(
        task_id=row.task_id,
        task=row.task,
        started_at_s=row.started_at_s,
        now_s=now_s,
        state=state,
        open_round=open_round,
        rounds=records,
        devices=tuple(devices),
        finished_because=row.finished_because,
    )


def _record(row: RoundRow, answers: dict[int, tuple[int, int]]) -> RoundRecord:
    accepted, declined = answers.get(row.number, (0, 0))
    return RoundRecord(
        number=row.number,
        outcome="committed" if row.outcome == "committed" else "abandoned",
        opened_at_s=row.opened_at_s,
        closed_at_s=row.closed_at_s or row.opened_at_s,
        cohort=len(row.cohort),
        accepted=accepted,
        declined=declined,
        update_l2=row.update_l2,
        loss=row.loss,
        accuracy=row.accuracy,
    )


def _epsilon(event: LaplaceEvent | None, times: int) -> float | None:
    return PureSpend().plus(event, times).epsilon if event else None


def open_store(home: Path) -> Store:
    """The fleet's store."""
    return Store(home / "fleet.sqlite")


def latest_run(home: Path) -> tuple[RunHistory, NDArray[np.float32]]:
    """The latest task's history and model (P,). Raises LocalError when no task was run yet."""
    load_config(home)
    with contextlib.closing(open_store(home)) as store:
        return _latest_run(store, home)


def _latest_run(store: Store, home: Path) -> tuple[RunHistory, NDArray[np.float32]]:
    now_s = time.time()
    row = store.latest_task()
    if row is None:
        raise LocalError(f"no task has been run in {home} yet: fedge coordinator run")
    connected = {
        device.device for device in store.devices() if device.last_seen_s and now_s - device.last_seen_s < AWAY_AFTER_S
    }
    open_round = _open_round(store, row)
    state: Literal["gathering", "collecting", "finished"] = "collecting" if open_round else "gathering"
    if row.finished_because is not None:
        state, connected = "finished", set()
    picture = history(store, row, now_s=now_s, connected=connected, state=state, open_round=open_round)
    return picture, np.frombuffer(row.params, "<f4").astype(np.float32)


def _open_round(store: Store, row: TaskRow) -> tuple[int, int, int] | None:
    rounds = store.rounds(row.task_id)
    if not rounds or rounds[-1].outcome is not None:
        return None
    answered = sum(store.answers(row.task_id).get(rounds[-1].number, (0, 0)))
    return rounds[-1].number, answered, len(rounds[-1].cohort)
