"""A fleet of real processes: from `init` to the report, through kills, with one device on a serial line."""

import signal

import pytest

from firmware_bridge.line_simulator import LineSimulator

pytestmark = pytest.mark.timeout(110)


def training(fleet, name, number):
    """Whether the device was asked for the round and has not charged its ledger yet."""
    opened = fleet.store(f"SELECT 1 FROM round WHERE number = {number} AND outcome IS NULL")
    charged = fleet.query(fleet.folder / name / "ledger.sqlite", f"SELECT 1 FROM release WHERE round = {number}")
    return bool(opened) and not charged


def unacknowledged(fleet, name):
    return fleet.query(fleet.folder / name / "ledger.sqlite", "SELECT round FROM release WHERE outcome IS NULL")


def test_six_over_tcp_and_one_over_serial_learn_together_while_everybody_is_killed_once(fleet):
    fleet.init(size=7, quorum=7, rounds=4, hidden=64, epochs=1000, epsilon=1.0)
    names = [f"board-{index}" for index in range(7)]
    with LineSimulator(baud=115_200, corrupt=1e-4, seed=5) as line:
        coordinator = fleet.run("--serial", line.a)
        codes = fleet.invite("--count", 7)
        for index, (name, code) in enumerate(zip(names, codes, strict=True)):
            link = ("--link", f"serial:{line.b}") if index == 6 else ()
            assert f'joined as "{name}"' in fleet.join(name, code, *link, seed=index, rows=6000).stdout
        devices = {name: fleet.run_device(name) for name in names}

        fleet.wait(lambda: training(fleet, "board-0", 1), 20)
        fleet.kill(devices["board-0"])  # while it trains
        assert unacknowledged(fleet, "board-0") == []
        devices["board-0"] = fleet.run_device("board-0")

        fleet.wait(lambda: training(fleet, "board-1", 2), 30)
        coordinator.send_signal(signal.SIGSTOP)  # it hears nothing, and answers nothing
        fleet.wait(lambda: unacknowledged(fleet, "board-1"), 20)
        fleet.kill(devices["board-1"])  # while it sends
        (sent,) = [entry for entry in fleet.ledger("board-1") if entry["outcome"] == "not acknowledged yet"]
        coordinator.send_signal(signal.SIGCONT)
        devices["board-1"] = fleet.run_device("board-1")

        fleet.wait(lambda: fleet.store("SELECT 1 FROM round WHERE number = 3"), 30)
        fleet.wait(lambda: fleet.store("SELECT 1 FROM contribution WHERE round = 3"), 20)
        fleet.kill(coordinator)
        during = fleet.fedge("coordinator", "status", "--home", fleet.home).stdout
        assert "round 3 is open" in during or "round 3 of 4" in during
        coordinator = fleet.run("--serial", line.a)

        assert fleet.ends(coordinator, 60) == 0, fleet.log("coordinator.log")
        for device in devices.values():
            assert fleet.ends(device, 20) == 0
    assert "all 4 rounds are done" in fleet.log("coordinator.log")
    fleet.agree(names)
    outcomes = [outcome for (outcome,) in fleet.store("SELECT outcome FROM round ORDER BY number")]
    assert outcomes == ["committed"] * 4
    for name in names:
        entries = fleet.ledger(name)
        assert [entry["outcome"] for entry in entries] == ["accepted"] * 4
        assert sum(float(entry["epsilon"]) for entry in entries) < 4.0001
        assert "finished: all 4 rounds are done" in fleet.log(f"{name}.log")
    again = next(entry for entry in fleet.ledger("board-1") if entry["round"] == sent["round"])
    assert again["release_id"] == sent["release_id"], "the release was drawn a second time"
    assert "serial" in {link for (link,) in fleet.store("SELECT link FROM device")}

    after = fleet.fedge("coordinator", "status", "--home", fleet.home).stdout
    assert "finished" in after
    assert "board-6" in after
    report = fleet.fedge("coordinator", "report", "--home", fleet.home, "-o", fleet.folder / "report").stdout.strip()
    assert report.endswith(".html")
    exported = fleet.fedge("coordinator", "export", "--home", fleet.home, "-o", fleet.folder / "model").stdout.split()
    assert any(name.endswith(".safetensors") for name in exported)
    gone = fleet.fedge("coordinator", "remove", "board-3", "--home", fleet.home).stdout
    assert "board-3 (dev-" in gone
    assert "is out of the fleet" in gone
    again = fleet.fedge("coordinator", "remove", "board-3", "--home", fleet.home, check=False)
    assert again.returncode == 2
    assert "names 0 devices" in again.stderr


def test_a_run_whose_devices_have_spent_their_budgets_ends_early_and_says_so(fleet):
    fleet.init(rounds=10, epsilon=1.0)
    coordinator = fleet.run()
    names = [f"board-{index}" for index in range(5)]
    for index, (name, code) in enumerate(zip(names, fleet.invite("--count", 5), strict=True)):
        fleet.join(name, code, "--budget", 2.5, seed=index)
    devices = [fleet.run_device(name) for name in names]
    assert fleet.ends(coordinator, 40) == 0
    log = fleet.log("coordinator.log")
    assert "after 2 of 10 rounds" in log
    assert "devices can still take part, 5 are needed" in log
    assert "of the owner's 2.5 are spent" in log
    for device in devices:
        assert fleet.ends(device, 20) == 0
    fleet.agree(names)
    for name in names:
        assert len(fleet.ledger(name)) == 2
        status = fleet.fedge("device", "status", "--home", fleet.folder / name).stdout
        assert "spent of 2.5" in status


def test_a_removed_device_leaves_a_running_fleet_at_once(fleet):
    fleet.init(size=2, quorum=2, rounds=1)
    fleet.run()
    (code,) = fleet.invite()
    fleet.join("board", code)
    device = fleet.run_device("board")
    fleet.wait(lambda: fleet.store("SELECT 1 FROM device WHERE last_seen IS NOT NULL"), 20)
    fleet.fedge("coordinator", "remove", "board", "--home", fleet.home)
    fleet.wait(lambda: "not in this fleet" in fleet.log("board.log"), 20)
    assert device.poll() is None  # it keeps asking, ever less often: its owner may have erred
