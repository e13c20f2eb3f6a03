"""The device's privacy ledger: charged, durably, before a release leaves; the release itself is kept until it is
acknowledged.

Charge and release are one transaction. A crash therefore leaves either neither, or both: the device then sends the
very same bytes again, which costs nothing, instead of drawing fresh noise, which would.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.durable import open_database, transaction
from edge_runtime.errors import DeviceFault, LocalError
from edge_runtime.privacy.accountant import PureSpend
from edge_runtime.privacy.laplace import LaplaceEvent

_SCHEMA = """
CREATE TABLE release (
    release_id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    round INTEGER NOT NULL,
    place TEXT NOT NULL,
    levels INTEGER,          -- NULL: no mechanism, allowed by the owner
    log2_scale INTEGER,
    charged_at REAL NOT NULL,
    outcome TEXT,            -- NULL until the coordinator has acknowledged it
    message BLOB,            -- dropped once a later round is charged
    UNIQUE (task_id, round)
) STRICT
"""


class BudgetSpent(LocalError):
    """The owner's budget does not cover the release; nothing was charged and nothing leaves."""


@dataclass(frozen=True)
class Entry:
    """One release. ``epsilon`` is None where no mechanism protected it."""

    release_id: str
    task_id: str
    round: int
    place: str
    epsilon: float | None
    charged_at_s: float
    outcome: Literal["accepted", "late", "refused"] | None


class Ledger:
    """Open ``path`` (":memory:" in simulations). Raises DeviceFault for a damaged file.

    ``create=False`` is for a device that has a past: a missing file is then an error, for what it spent would be
    forgotten.
    """

    def __init__(self, path: Path | str, *, create: bool) -> None:
        if not create and path != ":memory:" and not Path(path).exists():
            raise DeviceFault(
                f"the privacy ledger {path} is gone, so what this device has spent is unknown: "
                "restore it from a backup, or join again as a new device"
            )
        self._database = open_database(path, _SCHEMA, version=1)
        self._spend = self._load_spend()

    def close(self) -> None:
        self._database.close()

    @property
    def spent_epsilon(self) -> float:
        """Pure epsilon of everything charged so far."""
        return self._spend.epsilon

    def charge(
        self,
        *,
        release_id: str,
        task_id: str,
        round_number: int,
        place: str,
        event: LaplaceEvent | None,
        message: bytes,
        budget: float,
        now_s: float,
    ) -> None:
        """Write the charge and the release, and return only when both are on the disk.

        Raises BudgetSpent, with the numbers, when ``budget`` does not cover it; LocalError when this round of this
        task was charged before; DeviceFault when the disk did not take it, in which case nothing may be sent.
        """
        spend = self._spend
        if event is not None:
            spend = spend.plus(event)
            if spend.epsilon > budget:
                raise BudgetSpent(
                    f"this release costs epsilon {event.epsilon:.4g}; {self.spent_epsilon:.4g} of the owner's "
                    f"{budget:.4g} are spent"
                )
        row = (
            release_id,
            task_id,
            round_number,
            place,
            event.levels if event else None,
            event.log2_scale if event else None,
            now_s,
            message,
        )
        try:
            with transaction(self._database):
                self._database.execute(
                    "UPDATE release SET message = NULL WHERE task_id = ? AND outcome IS NOT NULL", (task_id,)
                )
                self._database.execute(
                    "INSERT INTO release (release_id, task_id, round, place, levels, log2_scale, charged_at, message) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        except sqlite3.IntegrityError:
            raise LocalError(f"round {round_number} of task {task_id} was charged before") from None
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be written ({fault}); nothing was sent") from fault
        self._spend = spend

    def settle(self, release_id: str, outcome: Literal["accepted", "late", "refused"]) -> None:
        """Note the coordinator's answer; the charge stands whatever it was."""
        try:
            with transaction(self._database):
                self._database.execute("UPDATE release SET outcome = ? WHERE release_id = ?", (outcome, release_id))
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be written: {fault}") from fault

    def unacknowledged(self) -> bytes | None:
        """The oldest release that was charged and not yet acknowledged, as the message to send again."""
        row = self._database.execute(
            "SELECT message FROM release WHERE outcome IS NULL ORDER BY charged_at, round LIMIT 1"
        ).fetchone()
        return row[0] if row else None

    def recorded(self, task_id: str, round_number: int) -> tuple[bool, bytes | None]:
        """Whether this round was charged before, and its message if that is still kept."""
        row = self._database.execute(
            "SELECT message FROM release WHERE task_id = ? AND round = ?", (task_id, round_number)
        ).fetchone()
        return (row is not None, row[0] if row else None)

    def entries(self) -> Iterator[Entry]:
        """Every release, oldest first."""
        rows = self._database.execute(
            "SELECT release_id, task_id, round, place, levels, log2_scale, charged_at, outcome FROM release "
            "ORDER BY charged_at, round"
        )
        for release_id, task_id, round_number, place, levels, log2_scale, charged_at, outcome in rows:
            epsilon = None if levels is None else LaplaceEvent(levels, log2_scale).epsilon
            yield Entry(release_id, task_id, round_number, place, epsilon, charged_at, outcome)

    def _load_spend(self) -> PureSpend:
        try:
            (health,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            rows = self._database.execute("SELECT levels, log2_scale FROM release WHERE levels IS NOT NULL").fetchall()
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger is damaged ({fault}); this device releases nothing") from fault
        if health != "ok":
            raise DeviceFault(f"the privacy ledger is damaged ({health}); this device releases nothing")
        spend = PureSpend()
        for levels, log2_scale in rows:
            spend = spend.plus(LaplaceEvent(levels, log2_scale))
        return spend
