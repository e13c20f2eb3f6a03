"""The simulator: one seed, one sequence of bytes, in every process."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from coordinator import partition
from coordinator.partition import TableSource
from coordinator.simulate import Simulation
from coordinator.simulate_cli import main
from edge_runtime.errors import LocalError, NotEnoughYet
from edge_runtime.features import Table
from edge_runtime.policy import Policy


def simulate(task, new_table, *, seed=1, devices=12, **named):
    return Simulation(task, [TableSource(new_table(index)) for index in range(devices)], seed=seed, **named).run()


@pytest.mark.parametrize("place", ["none", "local", "central"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(new_task, new_table, place):
    task = new_task(place, size=12, quorum=6, rounds=4)
    first, second = (simulate(task, new_table, seed=5) for _ in range(2))
    assert first.digest == second.digest
    assert first.params.tobytes() == second.params.tobytes()
    assert first.history == second.history
    assert simulate(task, new_table, seed=6).digest != first.digest


@pytest.mark.parametrize("place", ["none", "local", "central"])
def test_the_digest_does_not_depend_on_the_process(place):
    command = [sys.executable, "-m", "edge_runtime.main", "simulate", "--devices", "8", "--rounds", "2"]
    digests = set()
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [*command, "--noise", place],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(next(line for line in done.stdout.splitlines() if line.startswith("digest")))
    assert len(digests) == 1


def test_a_fleet_learns_what_its_devices_could_not_alone(new_task):
    rng = np.random.default_rng(1)
    tables, test = partition.synthetic(20, alpha=0.1, beta=0.3, rng=rng)
    from edge_runtime.architecture import Dense
    from edge_runtime.features import examples
    from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec

    task = Task(
        "learns",
        8,
        InputSpec(tuple(f"x{index}" for index in range(60)), "label", tuple("0123456789")),
        ModelSpec(60, (Dense(10),)),
        TrainingSpec(2, 10, 0.05),
        PrivacySpec("none"),
        CohortSpec(20, 10),
    )
    sources = [TableSource(table) for table in tables]
    outcome = Simulation(task, sources, seed=1, evaluation=examples(test, task.inputs)).run()
    accuracies = [record.accuracy for record in outcome.history.rounds]
    assert accuracies[-1] > max(0.4, accuracies[0])


@pytest.mark.parametrize("place", ["none", "local", "central"])
def test_a_frozen_layer_stays_as_it_is_whatever_noise_falls_on_it(place, new_task, new_table):
    from edge_runtime import model
    from edge_runtime.architecture import Dense
    from edge_runtime.task import ModelSpec

    layers = (Dense(3, "tanh", frozen=True), Dense(2))
    task = dataclasses.replace(new_task(place, size=12, quorum=6, rounds=2), model=ModelSpec(2, layers))
    start = model.initial_params(task.model, np.random.default_rng([1, 0]))
    params = simulate(task, new_table, seed=1).params
    np.testing.assert_array_equal(params[:9], start[:9])
    assert (params[9:] != start[9:]).all()


def test_the_history_counts_rounds_contributions_epsilon_and_bytes(new_task, new_table):
    task = new_task("central", size=12, quorum=6, rounds=4)
    seen = []
    outcome = simulate(task, new_table, on_round=lambda history: seen.append(history.committed))
    history = outcome.history
    assert seen == [1, 2, 3, 4]
    assert history.finished_because == "all 4 rounds are done"
    event = task.privacy.noise().event
    for device in history.devices:
        assert device.contributions == 4
        assert device.epsilon == pytest.approx(4 * event.epsilon)
        assert device.bytes_up > 200
        assert device.bytes_down > 200


def test_when_budgets_are_spent_the_simulation_ends_and_says_so(new_task, new_table):
    policy = Policy(epsilon_budget=2.5, minimum_cohort=1)
    history = simulate(new_task(size=12, quorum=6, rounds=9), new_table, policy=policy).history
    assert history.committed == 2
    assert "after 2 of 9 rounds" in history.finished_because


def test_too_few_devices_for_the_quorum_is_a_mistake_told_at_once(new_task, new_table):
    with pytest.raises(LocalError, match="2 devices, the task's quorum is 6"):
        simulate(new_task(size=12, quorum=6), new_table, devices=2)


class Warming:
    """A sensor that has nothing to tell the first times."""

    def __init__(self, table, times):
        self.table, self.times = table, times

    def read(self, spec):
        if self.times:
            self.times -= 1
            raise NotEnoughYet("the sensor is warming up")
        return self.table

    def close(self):
        pass


def test_sensors_that_warm_up_delay_a_run_and_do_not_spin(new_task, new_table):
    sources = [Warming(new_table(index), 3) for index in range(4)]
    outcome = Simulation(new_task(size=4, quorum=4, rounds=2), sources, seed=1).run()
    assert outcome.history.committed == 2
    assert 2.5 < outcome.history.now_s < 60
    assert len(outcome.history.rounds) < 10


def test_a_file_is_shared_out_and_a_report_written(tmp_path, capsys, new_task):
    from edge_runtime.tables import to_toml

    task = new_task("local", size=4, quorum=2, rounds=2)
    (tmp_path / "task.toml").write_text(to_toml(task))
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(80, 2))
    lines = ["a,b,label", *(f"{a},{b},{'yes' if a > b else 'no'}" for a, b in rows)]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    data = str(tmp_path / "data.csv")
    options = ["--data", data, "--evaluate", data, "--devices", "4", "-o", str(tmp_path / "out")]
    assert main([str(tmp_path / "task.toml"), *options]) == 0
    assert "4 devices, 2 rounds" in capsys.readouterr().out
    assert list((tmp_path / "out").glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--devices", "0"], "not a positive number"), (["--rounds", "0"], "not a positive number")],
)
def test_numbers_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(LocalError, match=words):
        main(arguments)


# Sharing out


def test_iid_deals_every_row_once():
    parts = partition.iid(103, 7, np.random.default_rng(1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))
    assert {len(part) for part in parts} == {14, 15}


@pytest.mark.parametrize("alpha", [0.01, 0.5, 100.0])
def test_dirichlet_deals_every_row_once_and_leaves_nobody_without(alpha):
    labels = np.repeat(np.arange(4), 50).astype(np.int32)
    parts = partition.dirichlet(labels, 20, alpha, np.random.default_rng(2))
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert min(len(part) for part in parts) >= 1


def test_small_alpha_gives_each_device_few_classes_and_large_alpha_all():
    labels = np.repeat(np.arange(10), 300).astype(np.int32)
    mean_classes = {
        alpha: np.mean(
            [len(np.unique(labels[part])) for part in partition.dirichlet(labels, 10, alpha, np.random.default_rng(3))]
        )
        for alpha in (0.05, 100.0)
    }
    assert mean_classes[0.05] < 5
    assert mean_classes[100.0] == 10


def test_fewer_rows_than_devices_cannot_be_shared():
    with pytest.raises(LocalError, match="3 rows cannot be shared among 5 devices"):
        partition.dirichlet(np.zeros(3, np.int32), 5, 0.5, np.random.default_rng(1))


def test_synthetic_tables_are_finite_and_of_the_sizes_promised():
    tables, test = partition.synthetic(30, alpha=0.5, beta=0.5, rng=np.random.default_rng(1))
    assert len(tables) == 30
    assert all(isinstance(table, Table) and 40 <= len(table.labels) <= 1000 for table in tables)
    assert np.isfinite(test.values).all()
    assert set(np.unique(test.labels)) <= set(range(10))
