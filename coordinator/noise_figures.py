"""How a round's noise compares with what it covers: the numbers behind "this model is small for a reason"."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Self

from coordinator.history import RunHistory
from edge_runtime.privacy.laplace import LaplaceNoise


@dataclass(frozen=True)
class NoiseFigures:
    """What the noise of a round does to its mean update. Norms are L2, in the units of the parameters."""

    noise: LaplaceNoise
    local: bool
    parameters: int
    contributors: int  # the median of the rounds, or the size of the cohort before the first
    observed_l2: float | None  # median norm of the released mean updates, their noise included
    signal_l2: float | None  # what of it is update: None where it cannot be told from the noise

    @classmethod
    def of(cls, history: RunHistory) -> Self:
        """The figures of a task whose place of noise is not "none".

        The noise is independent of the update, so their squared norms add in expectation, and the update's own is
        estimated by mean(observed^2 - noise^2). A squared Laplace variable has variance 5 mean^2: an estimate within
        two standard deviations of zero, over all drawn values, says nothing.
        """
        privacy, parameters = history.task.privacy, history.task.model.parameter_count
        noise, local = privacy.noise(), privacy.place == "local"
        done = [(r.update_l2, r.accepted) for r in history.rounds if r.update_l2 is not None and r.accepted]
        observed = [(norm, count) for norm, count in done if math.isfinite(norm)]
        counts = [count for _, count in observed] or [history.task.cohort.size]
        signal_l2 = None
        if observed:
            noises = [noise.expected_noise_l2(parameters, count, local=local) ** 2 for _, count in observed]
            excess = statistics.fmean(norm**2 for norm, _ in observed) - statistics.fmean(noises)
            if excess > 2 * math.sqrt(5 / (parameters * len(observed))) * statistics.fmean(noises):
                signal_l2 = math.sqrt(excess)
        median = statistics.median(norm for norm, _ in observed) if observed else None
        return cls(noise, local, parameters, round(statistics.median(counts)), median, signal_l2)

    @property
    def update_l2(self) -> float:
        """The update to hold the noise against: the estimate, else the clip norm, which no update's L2 norm exceeds."""
        return self.signal_l2 or self.noise.clip_norm

    def noise_l2(self, parameters: int) -> float:
        """Expected norm of the noise on the mean update of a model with so many parameters."""
        return self.noise.expected_noise_l2(parameters, self.contributors, local=self.local)

    def devices_needed(self, parameters: int) -> int:
        """From how many contributors on the noise is below the update: it falls as 1/n, 1/sqrt(n) under local noise."""
        ratio = self.noise.expected_noise_l2(parameters, 1, local=self.local) / self.update_l2
        return max(1, math.ceil(ratio**2 if self.local else ratio))

    def epsilon_needed(self, parameters: int) -> float:
        """At which epsilon per round the noise, which falls as 1/epsilon, would equal the update."""
        return self.noise.event.epsilon * self.noise_l2(parameters) / self.update_l2
