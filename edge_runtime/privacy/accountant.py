"""Composition of the events that a device has released."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from edge_runtime.privacy.laplace import LN2_HIGH, LaplaceEvent, rounded_up


@dataclass(frozen=True)
class PureSpend:
    """What events have cost together under pure differential privacy: their epsilons add up (Dwork & Roth 2014,
    Theorem 3.16).

    Kept as an exact number of grid steps over scale; ln 2 is rounded up once, at the end, and so is the result.
    """

    steps: Fraction = Fraction(0)

    def plus(self, event: LaplaceEvent, times: int = 1) -> PureSpend:
        return PureSpend(self.steps + times * Fraction(event.levels, 1 << event.log2_scale))

    @property
    def epsilon(self) -> float:
        return rounded_up(self.steps * LN2_HIGH)


def composed_epsilon(events: Iterable[LaplaceEvent]) -> float:
    """Pure epsilon of all ``events`` together."""
    spend = PureSpend()
    for event in events:
        spend = spend.plus(event)
    return spend.epsilon
