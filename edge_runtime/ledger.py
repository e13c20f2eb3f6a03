"""The device's privacy ledger: charged, durably, before a release leaves; the release is kept until acknowledged.

Charge and release are one transaction. A crash therefore leaves either neither, or both: the device then sends the
very same bytes again, which costs nothing, instead of drawing fresh noise, which would.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.durable import open_database, transaction
from edge_runtime.errors import DeviceFault, LocalError
from edge_runtime.privacy.accountant import PureSpend
from edge_runtime.privacy.laplace import LaplaceEvent, rounded_up

_SCHEMA = """
CREATE TABLE release (
    release_id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    round INTEGER NOT NULL,
    place TEXT NOT NULL,
    levels INTEGER,          -- NULL: no mechanism, allowed by the owner
    log2_scale INTEGER,
    draws INTEGER,
    charged_at REAL NOT NULL,
    outcome TEXT,            -- NULL until the coordinator has acknowledged it
    message BLOB,            -- dropped when it is acknowledged
    UNIQUE (task_id, round)
) STRICT
"""


class BudgetSpent(LocalError):
    """The owner's budget does not cover the release; nothing was charged and nothing leaves."""


@dataclass(frozen=True)
class Entry:
    """One release. ``epsilon`` and ``delta`` are None where no mechanism protected it."""

    release_id: str
    task_id: str
    round: int
    place: str
    epsilon: float | None
    delta: float | None
    charged_at_s: float
    outcome: Literal["accepted", "late", "refused"] | None


class Ledger:
    """Open ``path`` (":memory:" in simulations). Every method raises DeviceFault for a damaged file or a failing disk.

    ``create=False`` is for a device that has a past: a missing or emptied file is then an error, for what it spent
    would be forgotten. Several processes may have the file open; each sees what the others charged before it charges.
    """

    def __init__(self, path: Path | str, *, create: bool) -> None:
        if not create and path != ":memory:" and not Path(path).exists():
            raise DeviceFault(
                f"the privacy ledger {path} is gone, so what this device has spent is unknown: "
                "restore it from a backup. A new home begins a new ledger: where the data stay the same, give it "
                "with --budget only what was left"
            )
        self._database = open_database(path, _SCHEMA, version=1, create=create or path == ":memory:")
        try:
            self._check_health()
            self._seen_version = self._data_version()
            self._spend = self._load_spend()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    @property
    def spent_epsilon(self) -> float:
        """The epsilon of everything charged so far."""
        return self._spend.epsilon

    @property
    def spent_delta(self) -> float:
        """What the sampler's distance from its law adds to everything charged so far, at most."""
        return self._spend.delta

    def check(self, event: LaplaceEvent, budget: float) -> None:
        """Raises BudgetSpent, with the numbers, when ``budget`` does not cover ``event`` on top of the rest."""
        if not self._spend.plus(event).epsilon <= budget:
            raise BudgetSpent(
                f"this release costs epsilon {event.epsilon:.4g}; {self.spent_epsilon:.4g} of the owner's "
                f"{budget:.4g} are spent"
            )

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
        cost = (event.levels, event.log2_scale, event.draws) if event else (None, None, None)
        row = (release_id, task_id, round_number, place, *cost, now_s, message)
        try:
            with transaction(self._database):
                self._catch_up()  # within the transaction: nobody else can charge until it is over
                if event is not None:
                    self.check(event, budget)
                self._database.execute(
                    "INSERT INTO release "
                    "(release_id, task_id, round, place, levels, log2_scale, draws, charged_at, message) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        except sqlite3.IntegrityError:
            raise LocalError(f"round {round_number} of task {task_id} was charged before") from None
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be written ({fault}); nothing was sent") from fault
        if event is not None:
            self._spend = self._spend.plus(event)

    def settle(self, release_id: str, outcome: Literal["accepted", "late", "refused"]) -> None:
        """Note the coordinator's answer, and drop the message; the charge stands whatever the answer was."""
        try:
            with transaction(self._database):
                self._database.execute(
                    "UPDATE release SET outcome = ?, message = NULL WHERE release_id = ?", (outcome, release_id)
                )
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be written: {fault}") from fault

    def refuse_unacknowledged(self) -> None:
        """Drop every release that waits for an answer, for it was meant for another coordinator; the charges stand."""
        try:
            with transaction(self._database):
                self._database.execute("UPDATE release SET outcome = 'refused', message = NULL WHERE outcome IS NULL")
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be written: {fault}") from fault

    def unacknowledged(self) -> bytes | None:
        """The oldest release that was charged and not yet acknowledged, as the message to send again."""
        rows = self._select("SELECT message FROM release WHERE outcome IS NULL ORDER BY charged_at, rowid LIMIT 1")
        return rows[0][0] if rows else None

    def has_charged(self, task_id: str, round_number: int) -> bool:
        """Whether this round of this task was charged before."""
        return bool(self._select("SELECT 1 FROM release WHERE task_id = ? AND round = ?", task_id, round_number))

    def entries(self) -> Iterator[Entry]:
        """Every release, oldest first."""
        rows = self._select(
            "SELECT release_id, task_id, round, place, charged_at, outcome, levels, log2_scale, draws FROM release "
            "ORDER BY charged_at, rowid"
        )
        for release_id, task_id, round_number, place, charged_at, outcome, *cost in rows:
            event = None if cost[0] is None else _event(*cost)
            epsilon, delta = (event.epsilon, rounded_up(event.delta)) if event else (None, None)
            yield Entry(release_id, task_id, round_number, place, epsilon, delta, charged_at, outcome)

    def _select(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as fault:
            raise DeviceFault(f"the privacy ledger cannot be read ({fault}); this device releases nothing") from fault

    def _check_health(self) -> None:
        ((health,),) = self._select("PRAGMA quick_check(1)")
        if health != "ok":
            raise DeviceFault(f"the privacy ledger is damaged ({health}); this device releases nothing")

    def _data_version(self) -> int:
        """A number that changes when another connection has committed."""
        ((version,),) = self._select("PRAGMA data_version")
        return int(version)

    def _catch_up(self) -> None:
        if (version := self._data_version()) != self._seen_version:
            self._spend, self._seen_version = self._load_spend(), version

    def _load_spend(self) -> PureSpend:
        spend = PureSpend()
        for cost in self._select("SELECT levels, log2_scale, draws FROM release WHERE levels IS NOT NULL"):
            spend = spend.plus(_event(*cost))
        return spend


def _event(levels: int, log2_scale: int | None, draws: int | None) -> LaplaceEvent:
    try:
        return LaplaceEvent(levels, -1 if log2_scale is None else log2_scale, -1 if draws is None else draws)
    except ValueError as fault:
        raise DeviceFault(f"the privacy ledger is damaged ({fault}); this device releases nothing") from None
