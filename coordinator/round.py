"""A round as a state machine without I/O: who is there, who was asked, who has answered, and when to go on.

The table ``TRANSITIONS`` is the whole of it; what is decided here (open, close, give up) is carried out by
``coordinator.service``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable

from edge_runtime.errors import FedgeError
from edge_runtime.task import CohortSpec


class Phase(enum.StrEnum):
    GATHERING = "gathering"
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    FINISHED = "finished"


class Event(enum.StrEnum):
    OPENED = "cohort chosen"
    COMPLETE = "everybody answered"
    QUORUM = "deadline passed, quorum reached"
    ABANDONED = "deadline passed, quorum missed"
    COMMITTED = "model committed"
    UNUSABLE = "mean not usable"
    FINISHED = "task finished"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.GATHERING, Event.OPENED): Phase.COLLECTING,
    (Phase.GATHERING, Event.FINISHED): Phase.FINISHED,
    (Phase.COLLECTING, Event.COMPLETE): Phase.AGGREGATING,
    (Phase.COLLECTING, Event.QUORUM): Phase.AGGREGATING,
    (Phase.COLLECTING, Event.ABANDONED): Phase.GATHERING,
    (Phase.AGGREGATING, Event.COMMITTED): Phase.GATHERING,
    (Phase.AGGREGATING, Event.UNUSABLE): Phase.GATHERING,
}


class IllegalTransition(FedgeError):
    """An event that the phase does not know: a fault in fedge itself."""


class Rounds:
    """The rounds of one task, one at a time. ``number`` is the latest round's; numbers are never used twice."""

    def __init__(self, spec: CohortSpec, *, number: int, now_s: float) -> None:
        self.phase = Phase.GATHERING
        self.number = number
        self.cohort: frozenset[str] = frozenset()
        self.contributed: set[str] = set()
        self.declined: set[str] = set()
        self._spec = spec
        self._since_s = now_s  # when the phase began
        self._opened_at_s = now_s

    def choose(self, available: Iterable[str], now_s: float, rng: random.Random) -> frozenset[str] | None:
        """The cohort for the next round, uniformly among those available; None while there are too few."""
        devices = sorted(available)
        patient = now_s - self._since_s < self._spec.gather_s
        if len(devices) < (self._spec.size if patient else self._spec.quorum):
            return None
        return frozenset(rng.sample(devices, min(self._spec.size, len(devices))))

    def open(self, cohort: frozenset[str], now_s: float) -> None:
        """Begin the next round with ``cohort``."""
        self.step(Event.OPENED, now_s)
        self.number += 1
        self._begin(cohort, now_s)

    def resume(
        self, number: int, cohort: Iterable[str], contributed: Iterable[str], declined: Iterable[str], now_s: float
    ) -> None:
        """Go on with a round that a coordinator opened before it was killed; its deadline starts anew."""
        self.step(Event.OPENED, now_s)
        self.number = number
        self._begin(frozenset(cohort), now_s)
        self.contributed |= self.cohort & set(contributed)
        self.declined |= (self.cohort & set(declined)) - self.contributed

    def due(self, now_s: float) -> Event | None:
        """What has to happen to the open round now, if anything."""
        if self.phase is not Phase.COLLECTING:
            return None
        enough = len(self.contributed) >= self._spec.quorum
        waiting = len(self.cohort) - len(self.contributed) - len(self.declined)  # disjoint parts of the cohort
        if waiting == 0 or len(self.contributed) + waiting < self._spec.quorum:
            return Event.COMPLETE if enough else Event.ABANDONED
        if now_s >= self.deadline_s:
            return Event.QUORUM if enough else Event.ABANDONED
        return None

    def step(self, event: Event, now_s: float) -> None:
        """Follow the table. Raises IllegalTransition for an event that is not in it."""
        try:
            self.phase = TRANSITIONS[self.phase, event]
        except KeyError:
            expected = ", ".join(known for phase, known in TRANSITIONS if phase is self.phase) or "nothing"
            raise IllegalTransition(f'"{event}" while {self.phase}; expected {expected}') from None
        self._since_s = now_s

    @property
    def deadline_s(self) -> float:
        """When the open round closes at the latest."""
        return self._opened_at_s + self._spec.deadline_s

    def wakeup_at_s(self, now_s: float) -> float | None:
        """When time alone may change something; None when only somebody's request can."""
        match self.phase:
            case Phase.COLLECTING:
                return self.deadline_s
            case Phase.GATHERING:
                patient_until_s = self._since_s + self._spec.gather_s
                return patient_until_s if now_s < patient_until_s else None
            case _:
                return None

    def _begin(self, cohort: frozenset[str], now_s: float) -> None:
        self.cohort = cohort
        self.contributed, self.declined = set(), set()
        self._opened_at_s = now_s
