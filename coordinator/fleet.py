"""A fleet to demonstrate on: who has which data, over which link, and what all of them are to learn."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.features import Table
from edge_runtime.task import Task


@dataclass(frozen=True)
class Member:
    """One device. ``live``: its data comes from a sensor while it runs, not from a file."""

    name: str
    table: Table
    link: Literal["tcp", "serial"]
    live: bool = False


@dataclass(frozen=True)
class Fleet:
    """``test`` scores every model at the coordinator; ``story`` says in a few lines what is being shown."""

    task: Task
    members: tuple[Member, ...]
    test: Table
    story: tuple[str, ...]
    budget: float


def write_csv(path: Path, table: Table, task: Task) -> None:
    """The table as a device's owner would have it: a header line, one row a sample, classes by name."""
    inputs = task.inputs
    labels = [inputs.classes[label] for label in table.labels.tolist()] if inputs.classes else table.labels.tolist()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*inputs.columns, inputs.label])
        for row, label in zip(table.values.tolist(), labels, strict=True):
            writer.writerow([*(f"{value:.6g}" for value in row), label])


def write_recording(
    path: Path, table: Table, task: Task, *, rate_hz: float, units: tuple[str, ...], sensor: str
) -> None:
    """The table as the simulated sensor board replays it: integers with a scale, the class as a channel of its own."""
    names = [f"{name}[{unit}]*0.001" for name, unit in zip(task.inputs.columns, units, strict=True)]
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# sensor: {sensor}\n# rate_hz: {rate_hz:g}\n# type: int16\n")
        file.write(",".join([*names, f"{task.inputs.label}[1]*1"]) + "\n")
        for row, label in zip(table.values.tolist(), table.labels.tolist(), strict=True):
            file.write(",".join([*(f"{value:.3f}" for value in row), str(label)]) + "\n")
