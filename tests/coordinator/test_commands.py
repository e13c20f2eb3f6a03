"""What the owner of a fleet types, where a slip would cost a model, a budget or a device that cannot be put out."""

from contextlib import closing

import pytest

from coordinator.cli import _settle_task, main
from coordinator.run_history import open_store
from edge_runtime.errors import LocalError
from edge_runtime.tables import to_toml


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
