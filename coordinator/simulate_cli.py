"""``fedge simulate``: a task on a fleet that does not exist, with the code that runs on one that does."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from coordinator import partition
from coordinator.history import RunHistory
from coordinator.partition import TableSource
from coordinator.simulate import Simulation
from coordinator.view import LiveView
from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError
from edge_runtime.features import Table, examples
from edge_runtime.sources import open_source
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec, load_task


def main(argv: list[str]) -> int:
    """Run ``fedge simulate ARGV``."""
    arguments = _parser().parse_args(argv)
    for option in ("devices", "rounds"):
        if (number := getattr(arguments, option)) is not None and number < 1:
            raise LocalError(f"--{option} {number} is not a positive number")
    idle = ("noise", "epsilon") if arguments.task else ("data", "evaluate", "alpha")
    if given := [f"--{option}" for option in idle if getattr(arguments, option) is not None]:
        raise LocalError(f"{', '.join(given)} says nothing {'beside' if arguments.task else 'without'} a task file")
    for option in ("epsilon", "alpha"):
        if (value := getattr(arguments, option)) is not None and not 0 < value < 1e6:
            raise LocalError(f"--{option} {value:g} is not a positive number")
    if arguments.seed < 0:
        raise LocalError(f"--seed {arguments.seed} is negative")
    rng = np.random.default_rng([arguments.seed, 1])
    if arguments.task is not None:
        task = load_task(arguments.task)
        tables, test = _from_file(task, arguments, rng)
    else:
        task = _default_task(arguments)
        tables, test = partition.synthetic(arguments.devices, alpha=0.3, beta=0.5, rng=rng)
    if arguments.rounds is not None:
        task = dataclasses.replace(task, rounds=arguments.rounds)
    started_s = time.perf_counter()
    with LiveView() as view:
        simulation = Simulation(
            task,
            [TableSource(table) for table in tables],
            seed=arguments.seed,
            evaluation=examples(test, task.inputs) if test is not None else None,
            on_round=view.update,
        )
        outcome = simulation.run()
        view.finish(outcome.history)
    _say(outcome.history, outcome.digest, time.perf_counter() - started_s)
    if arguments.output:
        _write(arguments.output, task, outcome.params, outcome.history)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedge simulate",
        description="Run a task on simulated devices in virtual time. Without a task file: data after FedProx's "
        "Synthetic, logistic regression with 610 parameters under central Laplace noise.",
    )
    parser.add_argument("task", nargs="?", type=Path, help="a task file")
    parser.add_argument(
        "--data", metavar="FILE", help="a CSV or NPZ file to share out among the devices (with a task file)"
    )
    parser.add_argument(
        "--evaluate", metavar="FILE", help="a CSV or NPZ file that scores every model (with a task file)"
    )
    parser.add_argument("--alpha", type=float, help="Dirichlet concentration of the file's classes per device (0.5)")
    parser.add_argument("--devices", type=int, default=1000, help="how many devices (%(default)s)")
    parser.add_argument("--rounds", type=int, help="instead of the task's rounds")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (%(default)s)")
    parser.add_argument(
        "--noise", choices=("central", "local", "none"), help="who adds it, in the built-in task (central)"
    )
    parser.add_argument("--epsilon", type=float, help="per round, of the built-in task (1)")
    parser.add_argument("-o", "--output", type=Path, help="a folder for the report and the model")
    return parser


def _default_task(arguments: argparse.Namespace) -> Task:
    columns = tuple(f"x{index}" for index in range(partition.SYNTHETIC_INPUTS))
    classes = tuple(str(label) for label in range(partition.SYNTHETIC_CLASSES))
    return Task(
        name="synthetic",
        rounds=20,
        inputs=InputSpec(columns, "label", classes),
        model=ModelSpec(len(columns), (Dense(len(classes)),)),
        training=TrainingSpec(epochs=2, batch_size=10, learning_rate=0.05),
        privacy=PrivacySpec(arguments.noise or "central", clip_norm=5.0, epsilon=arguments.epsilon or 1.0),
        cohort=CohortSpec(arguments.devices, max(1, arguments.devices // 2)),
    )


def _from_file(task: Task, arguments: argparse.Namespace, rng: np.random.Generator) -> tuple[list[Table], Table | None]:
    if not arguments.data:
        raise LocalError("a task file needs --data FILE to share out among the devices")
    table = open_source(arguments.data).read(task.inputs)
    if len(table.labels) < arguments.devices:
        raise LocalError(f"{len(table.labels)} rows cannot be shared among {arguments.devices} devices")
    if task.inputs.window is not None:  # neighbours in time stay together
        parts = np.array_split(np.arange(len(table.labels)), arguments.devices)
    elif task.inputs.classes:
        parts = partition.dirichlet(table.labels, arguments.devices, arguments.alpha or 0.5, rng)
    else:
        parts = partition.iid(len(table.labels), arguments.devices, rng)
    test = open_source(arguments.evaluate).read(task.inputs) if arguments.evaluate else None
    return [Table(table.values[rows], table.labels[rows]) for rows in parts], test


def _say(history: RunHistory, digest: str, took_s: float) -> None:
    print(
        f"{len(history.devices)} devices, {history.committed} rounds, {history.now_s:.1f} virtual s in {took_s:.1f} s"
    )
    print(f"digest {digest}")


def _write(folder: Path, task: Task, params: np.ndarray, history: RunHistory) -> None:
    from coordinator.export import export_model
    from coordinator.report import write_report

    print(write_report(folder, history, [], model_files=export_model(folder, task, params).files))
