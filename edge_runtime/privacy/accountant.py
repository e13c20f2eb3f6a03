"""Composition of the events that a device has released."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from edge_runtime.privacy.laplace import LN2_HIGH, LaplaceEvent, rounded_up


def composed_epsilon(events: Iterable[LaplaceEvent]) -> float:
    """Pure epsilon of all ``events`` together under sequential composition (Dwork & Roth 2014, Theorem 3.16).

    Exact up to ln 2, which is rounded up; so is the result.
    """
    steps = sum((Fraction(event.levels, 1 << event.log2_scale) for event in events), Fraction(0))
    return rounded_up(steps * LN2_HIGH)
