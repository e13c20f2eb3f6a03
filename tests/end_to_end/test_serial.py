"""Two devices on serial lines of their own that lose bytes, lose their plug, and carry on."""

import time

import pytest

from firmware_bridge.line_simulator import LineSimulator

pytestmark = pytest.mark.timeout(110)


def in_transfer(fleet, line, more_bytes):
    """Wait until the line has carried so many more bytes from the coordinator."""
    before = line.carried_bytes[0]
    fleet.wait(lambda: line.carried_bytes[0] > before + more_bytes, 40)


def test_two_lines_survive_lost_bytes_a_pulled_plug_and_the_death_of_either_end(fleet):
    fleet.init(place="local", size=2, quorum=2, rounds=4, hidden=800, epochs=1, deadline_s=60.0)
    with (
        LineSimulator(baud=115_200, corrupt=1e-3, mode="lose", seed=3) as lossy,
        LineSimulator(baud=230_400, seed=4) as line,
    ):
        lines = ("--serial", lossy.a, "--serial", f"{line.a}@230400")
        coordinator = fleet.run(*lines)
        one, two = fleet.invite("--count", 2)
        fleet.join("one", one, "--link", f"serial:{lossy.b}", seed=1, rows=40)
        fleet.join("two", two, "--link", f"serial:{line.b}@230400", seed=2, rows=40)
        devices = {name: fleet.run_device(name) for name in ("one", "two")}

        in_transfer(fleet, lossy, 6000)  # a third of the model
        fleet.kill(devices["one"])
        devices["one"] = fleet.run_device("one")
        fleet.wait(lambda: fleet.store("SELECT 1 FROM round WHERE number = 2"), 40)

        in_transfer(fleet, line, 6000)
        line.unplug(vanish=True)
        time.sleep(5)
        assert devices["two"].poll() is None
        line.plug()
        fleet.wait(lambda: fleet.store("SELECT 1 FROM round WHERE number = 3"), 40)

        in_transfer(fleet, line, 6000)
        fleet.kill(coordinator)
        time.sleep(0.5)
        coordinator = fleet.run(*lines)
        assert fleet.ends(coordinator, 60) == 0
        for device in devices.values():
            assert fleet.ends(device, 20) == 0
    fleet.agree(["one", "two"])
    for name in ("one", "two"):
        assert [entry["outcome"] for entry in fleet.ledger(name)] == ["accepted"] * 4
    assert fleet.store("SELECT link FROM device") == [("serial",), ("serial",)]


def test_a_device_that_restarts_while_its_question_is_held_is_greeted_without_waiting_for_the_old_answer(fleet):
    fleet.init(place="local", size=2, quorum=2)
    with LineSimulator(baud=460_800) as line:
        fleet.run("--serial", f"{line.a}@460800")
        (code,) = fleet.invite()
        fleet.join("board", code, "--link", f"serial:{line.b}@460800")
        for life in (1, 2, 3):
            device = fleet.run_device("board", "--wait", 60)
            started_s = time.monotonic()
            fleet.wait(lambda life=life: fleet.log("board.log").count("greeting -> ready") == life, 25)
            assert time.monotonic() - started_s < 20
            time.sleep(0.3)  # it asks for work, and waits
            fleet.kill(device)
