"""What the federation was worth: the same test for other ways to use the same data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coordinator.history import Comparison, RunHistory
from coordinator.partition import TableSource
from coordinator.simulate import Simulation
from edge_runtime import model
from edge_runtime.errors import LocalError
from edge_runtime.features import Examples, Table, examples
from edge_runtime.task import PrivacySpec, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compare(
    task: Task, tables: Sequence[Table], test: Table, params: NDArray[np.float32], history: RunHistory, *, seed: int = 1
) -> list[Comparison]:
    """The federated model beside the same federation without noise, every device alone, and all data in one place.

    Every way trains as long: ``rounds`` times ``epochs`` passes over its data, from the same start. Only a
    demonstration can do this: it has everybody's data.
    """
    scored = examples(test, task.inputs)
    run = model.score(task.model, params, scored)
    epsilon = max((device.epsilon or 0.0 for device in history.devices), default=0.0)
    private = task.privacy.place != "none"
    noise = {
        "central": "Laplace noise on the sum",
        "local": "Laplace noise on every update",
        "none": "no clipping, no noise",
    }
    label = "federated" if private else "federated (without noise)"
    rows = [
        Comparison(
            label, run.accuracy, run.loss, epsilon if private else None, f"as run here; {noise[task.privacy.place]}"
        )
    ]
    if private:
        free = dataclasses.replace(task, privacy=PrivacySpec("none"))
        outcome = Simulation(free, [TableSource(table) for table in tables], seed=seed, evaluation=scored).run()
        other = model.score(task.model, outcome.params, scored)
        rows.append(
            Comparison(
                "federated without noise",
                other.accuracy,
                other.loss,
                None,
                "same rounds; no clipping, no noise (simulated)",
            )
        )
    rows.append(_alone(task, tables, scored, seed))
    pooled = Table(
        np.concatenate([t.values for t in tables]), np.concatenate([t.labels for t in tables]), _seams(tables)
    )
    central = model.score(task.model, _trained(task, examples(pooled, task.inputs), seed), scored)
    rows.append(
        Comparison("all data in one place", central.accuracy, central.loss, None, "everybody's recordings given away")
    )
    return rows


def _alone(task: Task, tables: Sequence[Table], scored: Examples, seed: int) -> Comparison:
    scores = []
    for index, table in enumerate(tables):
        try:
            own = examples(table, task.inputs)
        except LocalError:  # too little for one window: this device has no model of its own
            continue
        scores.append(model.score(task.model, _trained(task, own, seed + index), scored))
    loss = float(np.mean([score.loss for score in scores]))
    rates = [score.accuracy for score in scores if score.accuracy is not None]
    if not rates:
        return Comparison("each device alone", None, loss, None, f"mean of {len(scores)}")
    note = f"mean of {len(scores)}, from {100 * min(rates):.0f} % to {100 * max(rates):.0f} %"
    return Comparison("each device alone", float(np.mean(rates)), loss, None, note)


def _trained(task: Task, own: Examples, seed: int) -> NDArray[np.float32]:
    start = model.initial_params(task.model, np.random.default_rng([seed, 0]))
    training = dataclasses.replace(task.training, epochs=min(task.training.epochs * task.rounds, 1000), proximal=0.0)
    return start + model.local_update(task.model, training, start, own, np.random.default_rng([seed, 1]))


def _seams(tables: Sequence[Table]) -> NDArray[np.int32]:
    """One segment a device, so that no window spans two of them."""
    return np.repeat(np.arange(len(tables), dtype=np.int32), [len(table.labels) for table in tables])
