"""The smallest federation there is, from `init` to agreement: what an emulated board can finish in seconds."""


def test_two_boards_and_a_laptop_come_to_the_end_of_a_task(fleet):
    fleet.init(size=2, quorum=2, rounds=2, place="local", epsilon=1.0)
    coordinator = fleet.run()
    names = ["board-0", "board-1"]
    for seed, (name, code) in enumerate(zip(names, fleet.invite("--count", 2), strict=True)):
        fleet.join(name, code, seed=seed)
    devices = [fleet.run_device(name) for name in names]
    assert fleet.ends(coordinator, 90) == 0, fleet.log("coordinator.log")
    for device in devices:
        assert fleet.ends(device, 30) == 0
    assert "all 2 rounds are done" in fleet.log("coordinator.log")
    fleet.agree(names)
    for name in names:
        assert [entry["outcome"] for entry in fleet.ledger(name)] == ["accepted"] * 2
