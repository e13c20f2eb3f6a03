"""The owner's word on the device: what it may release, to whom, and how much in all. No coordinator can raise it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edge_runtime.errors import LocalError
from edge_runtime.messages import Offer
from edge_runtime.tables import Range, from_mapping
from edge_runtime.task import Place


@dataclass(frozen=True)
class Policy:
    """``epsilon_budget``: pure epsilon over the device's whole life. ``places``: where noise may be added; "none"
    must be allowed
    explicitly. ``minimum_cohort``: the fewest devices whose sum may be noised centrally.
    """

    epsilon_budget: Annotated[float, Range(0, 1e6)] = 8.0
    places: Annotated[tuple[Place, ...], Range(0, 3)] = ("local", "central")
    minimum_cohort: Annotated[int, Range(1, 1_000_000)] = 5
    largest_clip_norm: Annotated[float, Range(0, 1e6)] = 100.0

    def objection(self, offer: Offer) -> str | None:
        """Why this device will not take part, in words for its owner and the coordinator's; None when it will."""
        privacy = offer.task.privacy
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
    """The owner's policy; the defaults where there is no file. Raises LocalError for a file that does not fit."""
    if not path.exists():
        return Policy()
    try:
        return from_mapping(Policy, tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise LocalError(f"cannot read the policy {path}: {fault}") from None
