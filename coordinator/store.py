"""What the coordinator remembers: devices, invitations, tasks, rounds, contributions. A restarted coordinator goes on
from here.

Callers open transactions (:meth:`Store.transaction`); an answer that promises something is sent only after its
transaction.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.durable import open_database, transaction
from edge_runtime.errors import DeviceFault, RemoteError
from edge_runtime.messages import decode_task, encode_task
from edge_runtime.params import ITEM_BYTES, Tensor
from edge_runtime.task import Task

_SCHEMA = """
CREATE TABLE device (
    device TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    public_key BLOB NOT NULL UNIQUE,
    certificate BLOB NOT NULL,
    enrolled_at REAL NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    link TEXT NOT NULL DEFAULT 'none',
    last_seen REAL,
    bytes_up INTEGER NOT NULL DEFAULT 0,
    bytes_down INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX device_by_certificate ON device (certificate);
CREATE TABLE invitation (
    secret_hash BLOB PRIMARY KEY,
    expires_at REAL NOT NULL,
    device TEXT REFERENCES device
) STRICT;
CREATE TABLE task (
    task_id TEXT PRIMARY KEY,
    spec BLOB NOT NULL,
    started_at REAL NOT NULL,
    finished_because TEXT,
    model_round INTEGER NOT NULL,
    params BLOB NOT NULL
) STRICT;
CREATE TABLE round (
    task_id TEXT NOT NULL REFERENCES task,
    number INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    opened_at REAL NOT NULL,
    closed_at REAL,
    outcome TEXT,            -- NULL while open; committed or abandoned
    update_l2 REAL,
    loss REAL,
    accuracy REAL,
    PRIMARY KEY (task_id, number)
) STRICT;
CREATE TABLE contribution (
    task_id TEXT NOT NULL,
    round INTEGER NOT NULL,
    device TEXT NOT NULL REFERENCES device,
    release_id TEXT NOT NULL,
    received_at REAL NOT NULL,
    dtype TEXT NOT NULL,
    examples INTEGER,        -- the weight, where the task asks for one
    data BLOB,               -- the update's items; dropped when the round is closed
    PRIMARY KEY (task_id, round, device),
    FOREIGN KEY (task_id, round) REFERENCES round (task_id, number)
) STRICT;
CREATE TABLE decline (
    task_id TEXT NOT NULL,
    round INTEGER NOT NULL,
    device TEXT NOT NULL REFERENCES device,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at REAL NOT NULL,
    PRIMARY KEY (task_id, round, device)
) STRICT
"""


@dataclass(frozen=True)
class DeviceRow:
    device: str
    name: str
    certificate: bytes
    revoked: bool
    link: str
    last_seen_s: float | None
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class RoundRow:
    number: int
    cohort: tuple[str, ...]
    opened_at_s: float
    closed_at_s: float | None
    outcome: str | None
    update_l2: float | None
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class TaskRow:
    task_id: str
    task: Task
    started_at_s: float
    finished_because: str | None
    model_round: int
    params: bytes


class Store:
    """Open ``path`` (":memory:" in simulations). Raises DeviceFault when the file is damaged."""

    def __init__(self, path: Path | str) -> None:
        self._database = open_database(path, _SCHEMA, version=1)

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it ends. Raises DeviceFault when the disk does not take it or the file is
        damaged.
        """
        try:
            if self._database.in_transaction:  # a rollback that failed with the disk
                self._database.execute("ROLLBACK")
            with transaction(self._database):
                yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # our own mistakes
            raise
        except sqlite3.Error as fault:
            raise DeviceFault(f"the coordinator's store cannot be written: {fault}") from fault

    def check(self) -> None:
        """Raises DeviceFault when the file is damaged: better told at the start than in the middle of a round."""
        try:
            (health,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as fault:
            health = str(fault)
        if health != "ok":
            raise DeviceFault(f"the coordinator's store is damaged ({health}): restore it from a backup")

    @property
    def data_version(self) -> int:
        """Changes when another process has written: a device was invited, or removed."""
        (version,) = self._one("PRAGMA data_version")
        return int(version)

    # Devices and invitations

    def add_invitation(self, secret_hash: bytes, expires_at_s: float) -> None:
        self._run("INSERT INTO invitation (secret_hash, expires_at) VALUES (?, ?)", secret_hash, expires_at_s)

    def invitation(self, secret_hash: bytes) -> tuple[float, str | None] | None:
        """When it expires and which device has used it; None when there is no such invitation."""
        row: tuple[float, str | None] | None = self._one(
            "SELECT expires_at, device FROM invitation WHERE secret_hash = ?", secret_hash
        )
        return row

    def use_invitation(self, secret_hash: bytes, device: str) -> None:
        self._run("UPDATE invitation SET device = ? WHERE secret_hash = ?", device, secret_hash)

    def add_device(self, device: str, name: str, public_key: bytes, certificate: bytes, now_s: float) -> None:
        self._run(
            "INSERT INTO device (device, name, public_key, certificate, enrolled_at) VALUES (?, ?, ?, ?, ?)",
            device,
            name,
            public_key,
            certificate,
            now_s,
        )

    def device(self, device: str) -> DeviceRow | None:
        row = self._one(f"SELECT {_DEVICE_COLUMNS} FROM device WHERE device = ?", device)
        return DeviceRow(*row) if row else None

    def device_of_certificate(self, certificate: bytes) -> DeviceRow | None:
        """The device whose pinned certificate this is, to the last bit."""
        row = self._one(f"SELECT {_DEVICE_COLUMNS} FROM device WHERE certificate = ?", certificate)
        return DeviceRow(*row) if row else None

    def devices(self) -> list[DeviceRow]:
        return [
            DeviceRow(*row) for row in self._all(f"SELECT {_DEVICE_COLUMNS} FROM device ORDER BY enrolled_at, device")
        ]

    def revoke(self, device: str) -> None:
        self._run("UPDATE device SET revoked = 1 WHERE device = ?", device)

    def note_traffic(self, device: str, *, link: str, now_s: float, bytes_up: int, bytes_down: int) -> None:
        """Add to what the device has sent and received."""
        self._run(
            "UPDATE device SET link = ?, last_seen = ?, bytes_up = bytes_up + ?, bytes_down = bytes_down + ? "
            "WHERE device = ?",
            link,
            now_s,
            bytes_up,
            bytes_down,
            device,
        )

    # Tasks and rounds

    def add_task(self, task_id: str, task: Task, params: bytes, now_s: float) -> None:
        self._run(
            "INSERT INTO task (task_id, spec, started_at, model_round, params) VALUES (?, ?, ?, 0, ?)",
            task_id,
            encode_task(task),
            now_s,
            params,
        )

    def latest_task(self) -> TaskRow | None:
        row = self._one(
            "SELECT task_id, spec, started_at, finished_because, model_round, params FROM task "
            "ORDER BY rowid DESC LIMIT 1"  # not by the clock, which may have been set back since
        )
        if row is None:
            return None
        task_id, spec, *rest = row
        try:
            found = TaskRow(task_id, decode_task(spec), *rest)
        except RemoteError as fault:
            raise DeviceFault(f"the coordinator's store is damaged: {fault}") from None
        if len(found.params) != 4 * found.task.model.parameter_count:
            raise DeviceFault(f"the coordinator's store is damaged: the model of {task_id} has a wrong size")
        return found

    def largest_model_bytes(self) -> int:
        """Size of the largest model of any task so far: a device may still hold a release for an old one."""
        (largest,) = self._one("SELECT COALESCE(MAX(LENGTH(params)), 0) FROM task")
        return int(largest)

    def finish_task(self, task_id: str, reason: str) -> None:
        self._run("UPDATE task SET finished_because = ? WHERE task_id = ?", reason, task_id)

    def open_round(self, task_id: str, number: int, cohort: tuple[str, ...], now_s: float) -> None:
        self._run(
            "INSERT INTO round (task_id, number, cohort, opened_at) VALUES (?, ?, ?, ?)",
            task_id,
            number,
            json.dumps(cohort),
            now_s,
        )

    def rounds(self, task_id: str) -> list[RoundRow]:
        rows = self._all(
            "SELECT number, cohort, opened_at, closed_at, outcome, update_l2, loss, accuracy FROM round "
            "WHERE task_id = ? ORDER BY number",
            task_id,
        )
        return [RoundRow(number, tuple(json.loads(cohort)), *rest) for number, cohort, *rest in rows]

    def commit_round(
        self,
        task_id: str,
        number: int,
        *,
        params: bytes,
        update_l2: float,
        loss: float | None,
        accuracy: float | None,
        now_s: float,
    ) -> None:
        """The new model and the end of its round, together."""
        self._run("UPDATE task SET model_round = ?, params = ? WHERE task_id = ?", number, params, task_id)
        self._run(
            "UPDATE round SET closed_at = ?, outcome = 'committed', update_l2 = ?, loss = ?, accuracy = ? "
            "WHERE task_id = ? AND number = ?",
            now_s,
            update_l2,
            loss,
            accuracy,
            task_id,
            number,
        )
        self._drop_updates(task_id, number)

    def abandon_round(self, task_id: str, number: int, now_s: float) -> None:
        self._run(
            "UPDATE round SET closed_at = ?, outcome = 'abandoned' WHERE task_id = ? AND number = ?",
            now_s,
            task_id,
            number,
        )
        self._drop_updates(task_id, number)

    # Contributions

    def add_contribution(
        self,
        task_id: str,
        number: int,
        device: str,
        release_id: str,
        update: Tensor,
        examples: int | None,
        now_s: float,
    ) -> None:
        """Keep an update until its round is closed; a decline that went before is void."""
        self._run(
            "INSERT INTO contribution (task_id, round, device, release_id, received_at, dtype, examples, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            task_id,
            number,
            device,
            release_id,
            now_s,
            update.dtype,
            examples,
            update.data,
        )
        self._run("DELETE FROM decline WHERE task_id = ? AND round = ? AND device = ?", task_id, number, device)

    def contribution(self, task_id: str, number: int, device: str) -> str | None:
        """The release id that this device's contribution to this round carried, if it made one."""
        row = self._one(
            "SELECT release_id FROM contribution WHERE task_id = ? AND round = ? AND device = ?",
            task_id,
            number,
            device,
        )
        return row[0] if row else None

    def contributors(self, task_id: str, number: int) -> list[str]:
        rows = self._all("SELECT device FROM contribution WHERE task_id = ? AND round = ?", task_id, number)
        return [device for (device,) in rows]

    def contributions(self, task_id: str, number: int) -> Iterator[tuple[Tensor, int | None]]:
        """The updates of a round with their weights, one at a time, in an order that does not depend on who was fast.

        Raises DeviceFault when one is damaged.
        """
        rows = self._database.execute(
            "SELECT device, dtype, examples, data FROM contribution WHERE task_id = ? AND round = ? ORDER BY device",
            (task_id, number),
        )
        for device, dtype, examples, data in rows:
            try:
                yield Tensor(dtype, (len(data) // ITEM_BYTES[dtype],), data), examples
            except (ValueError, TypeError, KeyError) as fault:
                raise DeviceFault(f"the coordinator's store is damaged: {device} in round {number}: {fault}") from None

    def contribution_counts(self, task_id: str) -> dict[str, int]:
        rows = self._all("SELECT device, COUNT(*) FROM contribution WHERE task_id = ? GROUP BY device", task_id)
        return dict(rows)

    def answers(self, task_id: str) -> dict[int, tuple[int, int]]:
        """Contributions and declines of every round."""
        contributed = dict(
            self._all("SELECT round, COUNT(*) FROM contribution WHERE task_id = ? GROUP BY round", task_id)
        )
        declined = dict(self._all("SELECT round, COUNT(*) FROM decline WHERE task_id = ? GROUP BY round", task_id))
        return {number: (contributed.get(number, 0), declined.get(number, 0)) for number in contributed | declined}

    def add_decline(self, task_id: str, number: int, device: str, code: str, reason: str, now_s: float) -> None:
        self._run(
            "INSERT OR IGNORE INTO decline (task_id, round, device, code, reason, received_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            task_id,
            number,
            device,
            code,
            reason,
            now_s,
        )

    def decliners(self, task_id: str, number: int) -> list[str]:
        return [
            device
            for (device,) in self._all("SELECT device FROM decline WHERE task_id = ? AND round = ?", task_id, number)
        ]

    def last_declines(self, task_id: str) -> dict[str, str]:
        """Each device's latest reason."""
        rows = self._all("SELECT device, reason FROM decline WHERE task_id = ? ORDER BY round", task_id)
        return dict(rows)

    def _drop_updates(self, task_id: str, number: int) -> None:
        self._run("UPDATE contribution SET data = NULL WHERE task_id = ? AND round = ?", task_id, number)

    def _run(self, statement: str, *values: Any) -> None:
        self._database.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:
        return self._database.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: Any) -> list[Any]:
        return self._database.execute(statement, values).fetchall()


_DEVICE_COLUMNS = "device, name, certificate, revoked, link, last_seen, bytes_up, bytes_down"
