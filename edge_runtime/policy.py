"""The owner's word on the device: what it may release, to whom, and how much in all. No coordinator can raise it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edge_runtime.errors import LocalError
from edge_runtime.messages import Offer
from edge_runtime.tables import Range, from_mapping
from edge_runtime.task import Name, Place


@dataclass(frozen=True)
class Policy:
    """``epsilon_budget``: all the epsilon of the device's whole life, releases added up. ``places``: where noise may be
    added; "none" must be allowed explicitly. ``minimum_cohort``: the fewest devices whose sum may be noised centrally.
    ``columns``: those of the data that a task may read, labels included; empty for any.
    """

    epsilon_budget: Annotated[float, Range(0, 1e6)] = 8.0
    places: Annotated[tuple[Place, ...], Range(0, 3)] = ("local", "central")
    minimum_cohort: Annotated[int, Range(1, 1_000_000)] = 5
    largest_clip_norm: Annotated[float, Range(0, 1e6)] = 100.0
    columns: Annotated[tuple[Name, ...], Range(0, 4096)] = ()

    def objection(self, offer: Offer) -> str | None:
        """Why this device will not take part, in words for its owner and the coordinator's; None when it will."""
        privacy, inputs = offer.task.privacy, offer.task.inputs
        for column in (*inputs.columns, inputs.label) if self.columns else ():
            if column not in self.columns:
                return f'the task reads the column "{column}", the device\'s owner does not allow that'
        if privacy.place not in self.places:
            allowed = ", ".join(self.places) or "nothing"
            return f'the task asks for privacy "{privacy.place}", the device\'s owner allows {allowed}'
        if privacy.place == "none":
            return None
        if privacy.place == "central" and offer.cohort < self.minimum_cohort:
            want = f"the owner asks for {self.minimum_cohort} or more under central noise"
            return f"the cohort has {offer.cohort} devices, {want}"
        if privacy.clip_norm > self.largest_clip_norm:
            return f"the clip norm {privacy.clip_norm:g} is above the owner's {self.largest_clip_norm:g}"
        return None


def load_policy(path: Path) -> Policy:
    """The owner's policy. Raises LocalError for a file that does not fit, or is gone: the defaults may allow more."""
    try:
        return from_mapping(Policy, tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError:
        raise LocalError(
            f"the policy {path} is gone, so what the owner allows is unknown: write it again "
            "(docs/tasks.md has the keys)"
        ) from None
    except (OSError, ValueError) as fault:  # not UTF-8, not TOML, or a number of thousands of digits
        raise LocalError(f"cannot read the policy {path}: {fault}") from None
