"""The demonstration's data: 20 watches, worn on both arms by ten people doing physiotherapy exercises for the shoulder.

81 minutes of real six-axis recordings at 50 Hz (Burns et al., "Shoulder physiotherapy exercise recognition",
Physiological Measurement 39, 2018), which the ``seglearn`` wheel carries (BSD-3). Only the file is used: the package
and its dependencies are never imported. Each watch knows four of the seven exercises, as a patient is prescribed some
of them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coordinator.fleet import Fleet, Member
from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError
from edge_runtime.features import Table
from edge_runtime.task import (
    CohortSpec,
    InputSpec,
    ModelSpec,
    Place,
    PrivacySpec,
    Task,
    TrainingSpec,
    WindowSpec,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 50
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
# The seven exercises in the recordings' order, and the family of movement that the demonstration tells apart.
EXERCISES = ("pendulum", "abduction", "elevation", "internal rotation", "external rotation", "trapezius", "row")
FAMILIES = ("swing", "raise", "turn or pull")
_FAMILY_OF = (0, 1, 1, 2, 2, 2, 2)
_PRESCRIBED = 4
_TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class Watch:
    """One watch: ``values`` (t, 6) float32 in g and rad/s, ``labels`` (t,) int32 families; and the later part
    kept for the test.
    """

    name: str
    train: Table
    test: Table


def fleet(*, rounds: int, epsilon: float, place: Place, hidden: int = 0, serial_devices: int = 2) -> Fleet:
    """Twenty watches; the first ``serial_devices`` reach the coordinator over a serial line, the next one is a
    live sensor.
    """
    found = watches()
    members = tuple(
        Member(
            watch.name,
            watch.train,
            "serial" if index < serial_devices else "tcp",
            live=index == serial_devices,
        )
        for index, watch in enumerate(found)
    )
    minutes = sum(len(watch.train.labels) for watch in found) / RATE_HZ / 60
    story = (
        f"{len(found)} watches on the arms of ten people at shoulder physiotherapy: {minutes:.0f} minutes of real "
        "six-axis recordings at 50 Hz. Each watch knows four of seven exercises; together they learn to tell three "
        "families of movement apart, and no recording leaves its watch. The test is the later part of everybody's "
        "exercises.",
    )
    return Fleet(
        task(rounds=rounds, epsilon=epsilon, place=place, devices=len(found), hidden=hidden),
        members,
        _joined([watch.test for watch in found]),
        story,
        epsilon,
    )


def task(*, rounds: int, epsilon: float, place: Place, devices: int, hidden: int = 0) -> Task:
    """Which family of movement a 3-second window shows: 12 features, 3 classes; ``epsilon`` is shared by the rounds.

    Without a hidden layer the model has 39 parameters. The noise of the Laplace mechanism grows with sqrt(2d) against
    an update of fixed L1 norm: at twenty devices and epsilon 8, 39 parameters come within four points of no noise,
    and 259 (a hidden layer of 16) lose nineteen.
    """
    window = WindowSpec(length=3 * RATE_HZ, step=3 * RATE_HZ // 2, statistics=("mean", "std"))
    inputs = InputSpec(CHANNELS, "family", FAMILIES, scale=(1.0, 1.0, 1.0, 3.0, 3.0, 3.0), window=window)
    layers = (*((Dense(hidden, "tanh"),) if hidden else ()), Dense(len(FAMILIES)))
    return Task(
        name="shoulder exercises",
        rounds=rounds,
        inputs=inputs,
        model=ModelSpec(inputs.features, layers),
        training=TrainingSpec(epochs=10, batch_size=32, learning_rate=0.3),
        privacy=PrivacySpec(place, clip_norm=4.0, epsilon=epsilon / rounds),
        cohort=CohortSpec(size=devices, quorum=max(5, devices // 2), deadline_s=30.0, gather_s=60.0),
    )


def recordings() -> Path:
    """The file inside the installed wheel. Raises LocalError, with the command, when it is not there."""
    spec = importlib.util.find_spec("seglearn")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / "data" / "watch_dataset.npy" if folder else None
    if path is None or not path.is_file():
        raise LocalError(
            "the demonstration's recordings are not installed: pip install --no-deps seglearn==1.2.5 (11 MB), "
            "or use your own data: fedge demo --data FILE.csv"
        )
    return path


def watches(seed: int = 7) -> list[Watch]:
    """Twenty watches: each trains on the first 70 % of four recordings; the last 30 % of all seven are kept for
    the test.
    """
    # A pickle, from an installed package that could run code on import anyway.
    data = np.load(recordings(), allow_pickle=True).item()
    rng = np.random.default_rng(seed)
    found = []
    for person in sorted(set(data["subject"])):
        for arm in (0.0, 1.0):
            mine = np.flatnonzero((data["subject"] == person) & (data["side"] == arm))
            prescribed = set(rng.permutation(len(EXERCISES))[:_PRESCRIBED].tolist())
            cut = [_cut(data["X"][index], int(data["y"][index])) for index in mine]
            train = [early for early, _, exercise in cut if exercise in prescribed]
            found.append(
                Watch(
                    name=f"watch-{int(person):02d}-{'right' if arm else 'left'}",
                    train=_joined(train),
                    test=_joined([late for _, late, _ in cut]),
                )
            )
    return found


def _cut(recording: NDArray[Any], exercise: int) -> tuple[Table, Table, int]:
    values = recording.astype(np.float32)
    labels = np.full(len(values), _FAMILY_OF[exercise], np.int32)
    middle = int(len(values) * _TRAIN_SHARE)
    return Table(values[:middle], labels[:middle]), Table(values[middle:], labels[middle:]), exercise


def _joined(tables: list[Table]) -> Table:
    return Table(np.concatenate([table.values for table in tables]), np.concatenate([table.labels for table in tables]))
