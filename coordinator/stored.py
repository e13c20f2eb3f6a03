"""What a coordinator's home says, for commands that run beside the coordinator or after it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from coordinator.config import load_config
from coordinator.history import RunHistory
from coordinator.service import history
from coordinator.store import Store, TaskRow
from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AWAY_AFTER_S = 90.0


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
        device.device for device in store.devices() if device.last_seen_s and now_s - device.last_seen_s < _AWAY_AFTER_S
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
