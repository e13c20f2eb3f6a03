"""What the owner of a fleet types, where a slip would cost a model, a budget or a device that cannot be put out."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from coordinator.cli import _settle_task, main
from coordinator.run_history import open_store
from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError
from edge_runtime.tables import to_toml
from edge_runtime.task import ModelSpec


@pytest.fixture
def home(tmp_path, new_task, capsys):
    (tmp_path / "task.toml").write_text(to_toml(new_task()))
    main(["init", "--home", str(tmp_path / "fleet"), "--task", str(tmp_path / "task.toml")])
    return tmp_path / "fleet"


def test_a_finished_task_is_run_again_only_when_that_is_said(home):
    with closing(open_store(home)) as store:
        task = _settle_task(store, home, None, again=False)
        first = store.latest_task().task_id
        assert _settle_task(store, home, None, again=False) == task
        assert store.latest_task().task_id == first, "an unfinished task goes on"
        with store.transaction():
            store.finish_task(first, "all rounds are done")
        with pytest.raises(LocalError, match=r"is finished \(all rounds are done\); get its model with"):
            _settle_task(store, home, None, again=False)
        assert store.latest_task().task_id == first
        _settle_task(store, home, None, again=True)
        assert store.latest_task().task_id != first


def test_a_finished_task_makes_way_for_another(home, tmp_path, new_task):
    other = tmp_path / "other.toml"
    other.write_text(to_toml(new_task(rounds=7)))
    with closing(open_store(home)) as store:
        _settle_task(store, home, None, again=False)
        with store.transaction():
            store.finish_task(store.latest_task().task_id, "all rounds are done")
        assert _settle_task(store, home, other, again=False).rounds == 7


def test_devices_named_by_each_others_ids_can_both_be_removed(home, capsys):
    one, two = "dev-" + "1" * 20, "dev-" + "2" * 20
    with closing(open_store(home)) as store, store.transaction():
        store.add_device(one, two, b"key one", b"certificate one", 0.0)
        store.add_device(two, one, b"key two", b"certificate two", 0.0)
    main(["remove", one, "--home", str(home)])
    with closing(open_store(home)) as store:
        assert {device.device: device.revoked for device in store.devices()} == {one: True, two: False}
    main(["remove", two, "--home", str(home)])
    with closing(open_store(home)) as store:
        assert all(device.revoked for device in store.devices())


def test_a_name_that_two_devices_share_removes_neither(home):
    with closing(open_store(home)) as store, store.transaction():
        for index in range(2):
            store.add_device(f"dev-{index:020d}", "porch", bytes([index]), bytes([index]), 0.0)
    with pytest.raises(LocalError, match='"porch" names 2 devices'):
        main(["remove", "porch", "--home", str(home)])


def test_a_run_begins_with_the_weights_it_is_given_and_fresh_where_there_are_none(home, tmp_path, capsys, new_task):
    task = new_task()
    frozen = replace(task, model=ModelSpec(2, (Dense(4, "tanh", frozen=True), Dense(2))))
    (tmp_path / "task.toml").write_text(to_toml(frozen))
    weights = {
        "0.weight": np.arange(4 * task.model.inputs, dtype=np.float32).reshape(4, -1),
        "0.bias": np.ones(4, np.float32),
    }
    np.savez(tmp_path / "weights.npz", **weights)
    with closing(open_store(home)) as store:
        _settle_task(store, home, tmp_path / "task.toml", again=False, start=tmp_path / "weights.npz")
        params = np.frombuffer(store.latest_task().params, np.float32)
        count = weights["0.weight"].size
        np.testing.assert_array_equal(params[:count].reshape(-1, 4), weights["0.weight"].T)
        assert params[count : count + 4].tolist() == [1, 1, 1, 1]
        assert params[count + 4 :].any()
        with pytest.raises(LocalError, match="is under way and has its parameters: leave --start out"):
            _settle_task(store, home, None, again=False, start=tmp_path / "weights.npz")
    assert "layer 0; fresh: layer 2" in capsys.readouterr().out
