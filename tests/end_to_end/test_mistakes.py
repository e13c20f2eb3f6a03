"""What people do wrong, and what they are told: exit codes and one line each."""

import re
import signal
import socket
import subprocess

import pytest


def told(done, code, *words):
    assert done.returncode == code, (done.returncode, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert re.search(word, done.stderr), done.stderr


@pytest.fixture
def running(fleet):
    fleet.init()
    fleet.coordinator = fleet.run()
    return fleet


def test_codes_that_are_wrong_mistyped_expired_or_used_join_nobody(running):
    first, second = running.invite("--count", 2)
    mistyped = first[:-3] + ("A" if first[-3] != "A" else "B") + first[-2:]
    told(running.join("typo", mistyped, check=False), 2, "typing error")
    told(running.join("other", "hello", check=False), 2, 'a join code starts with "fedge1-"')

    assert running.join("one", first).returncode == 0
    told(running.join("one", second, check=False), 2, "belongs to a fleet already")
    told(running.join("thief", first, check=False), 3, "used by another device")

    (short,) = running.invite("--minutes", 0.001)
    told(running.join("slow", short, check=False), 3, "expired")
    assert running.join("two", second).returncode == 0
    assert sorted(name for (name,) in running.store("SELECT name FROM device")) == ["one", "two"]


def test_a_code_of_another_fleet_tells_this_coordinator_nothing(running, tmp_path):
    other = type(running)(tmp_path / "other", port=running.port)
    other.folder.mkdir()
    other.init()
    (code,) = other.invite()
    told(running.join("lost", code, check=False), 3, "not the one that wrote this join code", "nothing was told")


def test_nobody_listens(fleet):
    fleet.init()
    (code,) = fleet.invite()
    told(fleet.join("early", code, check=False), 3, "no coordinator answers", "is it running")


def test_a_home_is_initialised_once_and_keeps_its_keys(fleet):
    fleet.init()
    before = (fleet.home / "authority.key").read_bytes()
    told(
        fleet.fedge("coordinator", "init", "--home", fleet.home, check=False),
        2,
        "is a coordinator's folder already",
    )
    assert (fleet.home / "authority.key").read_bytes() == before
    assert (fleet.home / "authority.key").stat().st_mode & 0o077 == 0


def test_init_keeps_a_task_that_is_there(fleet):
    fleet.home.mkdir()
    (fleet.home / "task.toml").write_text("# mine\n")
    fleet.fedge("coordinator", "init", "--home", fleet.home)
    assert (fleet.home / "task.toml").read_text() == "# mine\n"


@pytest.mark.parametrize(
    "command", [["invite"], ["run"], ["status"], ["report"], ["export"], ["remove", "board"]], ids=lambda c: c[0]
)
def test_a_folder_that_is_no_home_is_told_as_such_and_left_alone(fleet, command):
    fleet.home.mkdir()
    told(fleet.fedge("coordinator", *command, "--home", fleet.home, check=False), 2, "is not a coordinator's folder")
    assert list(fleet.home.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "report", "export"])
def test_before_the_first_run_there_is_nothing_to_show(fleet, command):
    fleet.init()
    told(fleet.fedge("coordinator", command, "--home", fleet.home, check=False), 2, "no task has been run")


def test_a_port_in_use_and_an_address_that_is_none(fleet):
    fleet.init()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = fleet.fedge("coordinator", "run", "--home", fleet.home, "--listen", listen, check=False)
    assert done.returncode == 4
    assert "choose another --listen" in done.stderr
    told(
        fleet.fedge("coordinator", "run", "--home", fleet.home, "--listen", "nowhere", check=False),
        2,
        '"nowhere" is no address: want HOST:PORT to listen on',
    )


def test_an_unfinished_task_is_not_replaced_by_another(running):
    running.coordinator.send_signal(signal.SIGTERM)
    assert running.ends(running.coordinator, 10) == 1
    assert "stopped before the task was done; run it again to go on" in running.log("coordinator.log")
    other = running.write_task("other.toml", rounds=99)
    told(
        running.fedge("coordinator", "run", "--home", running.home, "--task", other, check=False),
        2,
        "is unfinished and differs from",
    )
    coordinator = running.run("--task", running.folder / "task.toml")  # the same one is no other
    assert coordinator.poll() is None


def test_two_coordinators_on_one_folder_would_count_twice(running):
    told(
        running.fedge("coordinator", "run", "--home", running.home, "--listen", "127.0.0.1:0", check=False),
        2,
        "a coordinator is running in",
    )
    running.kill(running.coordinator)  # a lock that outlives its holder would be worse than none
    assert running.run().poll() is None


def test_a_store_that_is_damaged_is_not_run_on(running):
    running.kill(running.coordinator)
    store = running.home / "fleet.sqlite"
    store.write_bytes(b"not a database" * 1000)
    told(running.fedge("coordinator", "run", "--home", running.home, check=False), 4, "cannot open")


def test_a_device_that_has_not_joined_cannot_run(fleet):
    told(fleet.fedge("device", "run", "--home", fleet.folder / "nobody", check=False), 2, "has not joined a fleet")


def test_a_run_with_a_time_limit_ends_by_itself_and_can_go_on(fleet):
    fleet.init()
    process = fleet.start("coordinator.log", "coordinator", "run", "--home", fleet.home, "--seconds", 1)
    assert fleet.ends(process, 20) == 1
    assert "run it again to go on" in fleet.log("coordinator.log")


def test_the_owner_may_leave_with_control_c(running):
    running.coordinator.send_signal(signal.SIGINT)
    try:
        running.coordinator.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("the coordinator does not stop")
    assert running.coordinator.returncode == 1
    assert "Traceback" not in running.log("coordinator.log")
