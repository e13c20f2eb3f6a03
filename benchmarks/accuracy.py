"""What the noise costs in accuracy: the demonstration's task against training on all data in one place.

Simulated with the demonstration's recordings, medians over seeds; the peer is the pooled model on the same test.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator

from coordinator import demo_data
from coordinator.comparison import compare
from coordinator.partition import TableSource
from coordinator.simulate import Simulation
from edge_runtime.features import examples
from edge_runtime.task import Place, PrivacySpec, Task

_SEEDS = range(1, 32)


def cases() -> Iterator[dict[str, object]]:
    """Central noise, local noise and none, each device alone, and a hidden layer under central noise."""
    plain = demo_data.fleet(rounds=5, epsilon=8.0, place="central")
    tables = [member.table for member in plain.members]
    scored = examples(plain.test, plain.task.inputs)

    def federated(task: Task) -> float:
        runs = (
            Simulation(task, [TableSource(table) for table in tables], seed=seed, evaluation=scored).run()
            for seed in _SEEDS
        )
        return statistics.median(outcome.history.rounds[-1].accuracy or 0.0 for outcome in runs)

    outcome = Simulation(plain.task, [TableSource(table) for table in tables], seed=1, evaluation=scored).run()
    rows = {row.label: row for row in compare(plain.task, tables, plain.test, outcome.params, outcome.history)}
    pooled = rows["all data in one place"].accuracy or 0.0
    places: tuple[Place, ...] = ("none", "central", "local")
    for place in places:
        task = dataclasses.replace(plain.task, privacy=dataclasses.replace(plain.task.privacy, place=place))
        if place == "none":
            task = dataclasses.replace(plain.task, privacy=PrivacySpec("none"))
        yield _case(f"20 watches, noise {place}, epsilon {'none' if place == 'none' else 8}", federated(task), pooled)
    hidden = demo_data.fleet(rounds=5, epsilon=8.0, place="central", hidden=16)
    yield _case("20 watches, noise central, epsilon 8, 259 parameters", federated(hidden.task), pooled)
    yield _case("each watch alone, mean", rows["each device alone"].accuracy or 0.0, pooled)


def _case(name: str, accuracy: float, pooled: float) -> dict[str, object]:
    return {
        "case": name,
        "ours": 100 * accuracy,
        "peer": 100 * pooled,
        "ratio": accuracy / pooled,
        "unit": "% accuracy",
        "peer_name": "all data in one place",
    }
