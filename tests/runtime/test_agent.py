"""The agent against a coordinator that is away, restarts, hangs, lies and breaks off: it goes on, and releases once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edge_runtime import agent
from edge_runtime.channel import Channel
from edge_runtime.conversation import Conversation
from edge_runtime.device import Device
from edge_runtime.errors import DeviceFault, LocalError, RemoteError
from edge_runtime.identity import Home, join
from edge_runtime.ledger import Ledger
from edge_runtime.messages import (
    Contribute,
    Decline,
    Enrolled,
    Finished,
    GetTask,
    Hello,
    Receipt,
    Refusal,
    Request,
    Wait,
    Welcome,
    decode,
    encode,
)
from edge_runtime.policy import Policy
from edge_runtime.task import PrivacySpec
from edge_runtime.transports import open_pipe
from edge_runtime.transports.serial import SerialPipe
from firmware_bridge.line_simulator import LineSimulator


class Stop(Exception):
    pass


class Naps:
    """A ``sleep`` that notes instead, calls ``hooks[n]`` before its n-th, and stops the agent after ``limit``."""

    def __init__(self, limit: int = 10, hooks: dict[int, Callable[[], None]] | None = None) -> None:
        self.asked_s: list[float] = []
        self._limit, self._hooks = limit, hooks or {}

    def __call__(self, duration_s: float) -> None:
        if hook := self._hooks.get(len(self.asked_s)):
            hook()
        self.asked_s.append(duration_s)
        if len(self.asked_s) >= self._limit:
            raise Stop
        time.sleep(0.01)


@pytest.fixture
def hurried(monkeypatch) -> None:
    """Answers are waited for half a second."""
    monkeypatch.setattr(agent, "Conversation", functools.partial(Conversation, timeout_s=0.5))


@pytest.fixture
def ledger():
    ledger = Ledger(":memory:", create=True)
    yield ledger
    ledger.close()


@pytest.fixture
def device(ledger, source) -> Device:
    return Device(policy=Policy(100.0, minimum_cohort=1), ledger=ledger, source=source, wait_s=0.2)


class Liar:
    """A coordinator with a good certificate and ``answer`` for everything; bytes are sent as they are."""

    def __init__(self, fleet, answer: Callable[[Request], object]) -> None:
        self.heard: list[Request] = []
        self.connections = 0
        self._context, self._answer = fleet.server(), answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection, contextlib.suppress(RemoteError, OSError):
                    self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        channel = Channel(self._context, server_side=True, max_message_bytes=1 << 20)
        while not channel.closed and (data := connection.recv(65_536)):
            for message in channel.receive(data):
                self.heard.append(decode(message, peer="device"))
                reply = self._answer(self.heard[-1])
                if reply is None:
                    return
                if reply == "hang":
                    connection.sendall(channel.bytes_to_send())
                    connection.recv(65_536)
                    return
                channel.send(reply if isinstance(reply, bytes) else encode(reply))
            connection.sendall(channel.bytes_to_send())


@pytest.fixture
def liar(fleet) -> Iterator[Callable[[Callable[[Request], object]], Liar]]:
    running: list[Liar] = []

    def start(answer: Callable[[Request], object]) -> Liar:
        running.append(Liar(fleet, answer))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_coordinator_that_is_away_is_asked_ever_less_often(device, fleet) -> None:
    naps = Naps(limit=12)
    with pytest.raises(Stop):
        agent.run(device, fleet.home, "127.0.0.1:1", wait_s=0.1, sleep=naps)
    for asked_s, nominal_s in zip(naps.asked_s, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert 0.75 * nominal_s <= asked_s <= 1.25 * nominal_s


LIES = {
    "hangs": lambda request: "hang",
    "hangs after the greeting": lambda request: Welcome("d", "n") if isinstance(request, Hello) else "hang",
    "closes": lambda request: None,
    "closes after the greeting": lambda request: Welcome("d", "n") if isinstance(request, Hello) else None,
    "talks nonsense": lambda request: b"nonsense",
    "says nothing": lambda request: b"",
    "answers with a request": lambda request: GetTask(1.0),
    "answers what was not asked": lambda request: Enrolled("d", b"x"),
    "refuses": lambda request: Refusal("device", "unknown_device", "who are you?"),
    "refuses after the greeting": lambda request: (
        Welcome("d", "n") if isinstance(request, Hello) else Refusal("coordinator", "storage", "full")
    ),
    "sends receipts for nothing": lambda request: (
        Welcome("d", "n") if isinstance(request, Hello) else Receipt("release-0", "accepted")
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_coordinator_that_misbehaves_is_asked_ever_less_often_and_gets_nothing(
    lie: str, liar, device, fleet, ledger, hurried
) -> None:
    coordinator, naps = liar(LIES[lie]), Naps(limit=4)
    with pytest.raises(Stop):
        agent.run(device, fleet.home, coordinator.address, wait_s=0.0, sleep=naps)
    assert coordinator.connections == 4
    assert naps.asked_s[-1] > 0.75 * 4
    assert list(ledger.entries()) == []


@pytest.mark.parametrize("garbage", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_what_is_no_coordinator_at_all_is_left_in_words(garbage: bytes, device, fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(garbage)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(Stop):
            agent.run(device, fleet.home, f"127.0.0.1:{listener.getsockname()[1]}", wait_s=0, sleep=Naps(limit=2))
        listener.shutdown(socket.SHUT_RDWR)


def test_a_flood_of_answers_is_refused(liar, device, fleet) -> None:
    double = encode(Welcome("d", "n"))
    coordinator = liar(lambda request: double + len(double).to_bytes(4, "big") + double)
    with pytest.raises(Stop):
        agent.run(device, fleet.home, coordinator.address, wait_s=0, sleep=Naps(limit=2))
    assert all(isinstance(request, Hello) for request in coordinator.heard)


def test_a_rest_is_taken_and_bounded(liar, device, fleet) -> None:
    answers = itertools.chain([Wait(5000.0)], itertools.repeat(Wait(0.0)))
    coordinator = liar(lambda request: Welcome("d", "n") if isinstance(request, Hello) else next(answers))
    naps = Naps(limit=2)
    with pytest.raises(Stop):
        agent.run(device, fleet.home, coordinator.address, wait_s=0, sleep=naps)
    assert naps.asked_s == [3600.0, pytest.approx(3600.0)]


def test_the_same_release_is_sent_until_it_is_acknowledged(liar, device, fleet, ledger, new_task, new_offer, hurried):
    offer, fates = new_offer(new_task()), iter([None, "hang", b"nonsense", Receipt("other-id", "accepted"), Wait(1.0)])

    def answer(request: Request) -> object:
        match request:
            case Hello():
                return Welcome("d", "n")
            case GetTask():
                return Finished("t1", "done") if ledger_is_settled.is_set() else offer
            case Contribute():
                fate = next(fates, "receipt")
                if fate != "receipt":
                    return fate
                ledger_is_settled.set()
                return Receipt(request.release_id, "accepted")
            case _:
                return None

    ledger_is_settled = threading.Event()
    coordinator = liar(answer)
    assert agent.run(device, fleet.home, coordinator.address, wait_s=0.0, sleep=Naps(limit=50)) == "done"
    sent = [request for request in coordinator.heard if isinstance(request, Contribute)]
    assert len(sent) == 6
    assert len({encode(request) for request in sent}) == 1
    assert [entry.outcome for entry in ledger.entries()] == ["accepted"]


def test_a_fault_of_the_ledger_ends_the_run(liar, device, fleet, ledger, new_task, new_offer, monkeypatch) -> None:
    coordinator = liar(lambda request: Welcome("d", "n") if isinstance(request, Hello) else new_offer(new_task()))

    def full(**_) -> None:
        raise DeviceFault("disk full")

    monkeypatch.setattr(ledger, "charge", full)
    with pytest.raises(DeviceFault, match="disk full"):
        agent.run(device, fleet.home, coordinator.address, wait_s=0, sleep=Naps())
    assert not any(isinstance(request, Contribute) for request in coordinator.heard)


def test_an_identity_that_is_gone_and_an_address_that_is_none_end_the_run(device, fleet, tmp_path) -> None:
    with pytest.raises(LocalError, match="cannot be used"):
        agent.run(device, Home(tmp_path), "127.0.0.1:1", wait_s=0, sleep=Naps())
    with pytest.raises(LocalError, match="is no address"):
        agent.run(device, fleet.home, "nowhere", wait_s=0, sleep=Naps())


def test_a_serial_port_that_is_unplugged_is_waited_for(device, fleet, tmp_path) -> None:
    with pytest.raises(Stop):
        agent.run(device, fleet.home, f"serial:{tmp_path}/none", wait_s=0, sleep=Naps(limit=3))


# The real coordinator


@pytest.fixture
def joined(coordinator, new_task, tmp_path):
    """A coordinator with a task of three rounds and one device that has joined."""
    running = coordinator(new_task(privacy=PrivacySpec("local", epsilon=1.0)))
    home = Home(tmp_path / "home")
    join(home, running.invite(), name="porch")
    return running, home


def expect_three_rounds(running, ledger: Ledger, device_id: str | None = None) -> None:
    running.stop()
    assert sum(running.contributions().values()) == 3
    outcomes = [(entry.round, entry.outcome) for entry in ledger.entries()]
    assert [outcome for _, outcome in outcomes].count("accepted") == 3
    assert len({number for number, _ in outcomes}) == len(outcomes)


def test_a_run_with_the_real_coordinator_ends_with_its_reason(joined, device, ledger) -> None:
    running, home = joined
    reason = agent.run(device, home, running.address, wait_s=0.2, sleep=lambda _: time.sleep(0.01))
    assert reason == "all 3 rounds are done"
    expect_three_rounds(running, ledger)
    assert len(list(ledger.entries())) == 3


def test_a_coordinator_that_starts_late_and_restarts_in_every_round_gets_each_release_once(
    joined, ledger, source
) -> None:
    running, home = joined
    running.stop()
    read = source.read

    def restart_while_training(spec):
        running.stop()
        running.start()
        return read(spec)

    source.read = restart_while_training
    device = Device(policy=Policy(100.0, minimum_cohort=1), ledger=ledger, source=source, wait_s=0.2)
    naps = Naps(limit=200, hooks={2: running.start})
    assert agent.run(device, home, running.address, wait_s=0.2, sleep=naps) == "all 3 rounds are done"
    expect_three_rounds(running, ledger)


class Proxy:
    """Passes bytes between the device and ``address``; of connection n only ``cuts[n]`` (bytes up, bytes down)."""

    def __init__(self, address: str, cuts: list[tuple[int, int]]) -> None:
        host, port = address.split(":")
        self._target, self._cuts = (host, int(port)), iter(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                left = list(next(self._cuts, (1 << 30, 1 << 30)))
                with device, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
                    self._pass(device, server, left)

    def _pass(self, device: socket.socket, server: socket.socket, left: list[int]) -> None:
        while True:
            for source in select.select([device, server], [], [])[0]:
                up = source is device
                data = source.recv(65_536)
                (server if up else device).sendall(data[: left[not up]])
                left[not up] -= len(data)
                if not data or left[not up] <= 0:
                    return


def test_a_connection_cut_anywhere_costs_nothing_twice(joined, device, ledger) -> None:
    running, home = joined
    downs = [(1 << 30, down) for down in (1, 300, 900, 1000, 1100, 1200, 1300, 1400, 1600, 1800, 2000, 2400)]
    ups = [(up, 1 << 30) for up in (1, 200, 500, 900, 1000, 1050, 1100, 1150, 1200, 1300, 1400, 1500, 1700, 2000)]
    cuts = [cut for pair in itertools.zip_longest(downs, ups) for cut in pair if cut]
    proxy = Proxy(running.address, cuts)
    naps = Naps(limit=100)
    assert agent.run(device, home, proxy.address, wait_s=0.2, sleep=naps) == "all 3 rounds are done"
    proxy.close()
    expect_three_rounds(running, ledger)
    assert len(naps.asked_s) >= 3


def test_a_device_joins_and_runs_over_a_lossy_serial_line_and_comes_back_on_it(
    coordinator, new_task, ledger, source, tmp_path
) -> None:
    with LineSimulator(baud=1_000_000, corrupt=1e-4) as line:
        running = coordinator(new_task(), serial_ports=(f"{line.b}@1000000",))
        address, home = f"serial:{line.a}@1000000", Home(tmp_path / "home")
        join(home, running.invite(), name="porch", address=address)  # three conversations, each after a goodbye
        device = Device(policy=Policy(100.0, minimum_cohort=1), ledger=ledger, source=source, link="serial", wait_s=0.2)
        assert agent.run(device, home, address, wait_s=0.2, sleep=Naps()) == "all 3 rounds are done"
        expect_three_rounds(running, ledger)


def test_a_device_without_budget_declines_and_the_task_ends(joined, ledger, source) -> None:
    running, home = joined
    device = Device(policy=Policy(1.5), ledger=ledger, source=source, wait_s=0.2)
    reason = agent.run(device, home, running.address, wait_s=0.2, sleep=lambda _: time.sleep(0.01))
    assert reason.startswith("after 1 of 3 rounds 0 devices can still take part")
    assert len(list(ledger.entries())) == 1


# Pipes


def test_a_tcp_pipe_tells_silence_from_an_end_and_from_a_break() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe = open_pipe(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        peer, _ = listener.accept()
        assert pipe.read(0.01) is None
        peer.sendall(b"hello")
        assert pipe.read(1.0) == b"hello"
        peer.shutdown(socket.SHUT_WR)
        assert pipe.read(1.0) == b""
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        time.sleep(0.05)
        with pytest.raises(RemoteError, match="the connection broke"):
            pipe.write(b"x", 0.5)
        pipe.close()


def test_a_tcp_pipe_that_nobody_empties_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe = open_pipe(f"127.0.0.1:{listener.getsockname()[1]}")
        peer, _ = listener.accept()
        with pytest.raises(RemoteError, match="timed out"):
            pipe.write(bytes(50_000_000), 0.1)
        pipe.close()
        peer.close()


def test_a_serial_line_that_nobody_answers_is_given_up_in_words(monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.transports.serial._UP_TIMEOUT_S", 0.1)
    with LineSimulator() as line, pytest.raises(RemoteError, match=r"nobody answers on .* at 9600 baud"):
        open_pipe(f"serial:{line.a}@9600")


def test_a_serial_pipe_closes_even_when_its_port_has_failed(monkeypatch) -> None:
    from firmware_bridge.line import LinkPort

    with LineSimulator(baud=1_000_000) as line, LinkPort(line.b, baud=1_000_000):
        pipe = SerialPipe(line.a, baud=1_000_000)

        def fail(timeout_s: float) -> bool:
            raise DeviceFault("the port's thread ended")

        monkeypatch.setattr(pipe._port, "flush", fail)
        pipe.close()
        assert not pipe._port.plugged


def test_nothing_is_left_open(device, fleet) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Stop):
        agent.run(device, fleet.home, "127.0.0.1:1", wait_s=0, sleep=Naps(limit=10))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_decline_is_sent_and_the_device_asks_on(liar, fleet, ledger, source, new_task, new_offer) -> None:
    offers = iter([new_offer(new_task())])

    def answer(request: Request) -> object:
        match request:
            case Hello():
                return Welcome("d", "n")
            case GetTask():
                return next(offers, Finished("t1", "over"))
            case Decline():
                return Receipt("", "noted")
        return None

    coordinator = liar(answer)
    device = Device(policy=Policy(places=()), ledger=ledger, source=source)
    assert agent.run(device, fleet.home, coordinator.address, wait_s=0, sleep=Naps()) == "over"
    assert [type(request).__name__ for request in coordinator.heard] == ["Hello", "GetTask", "Decline", "GetTask"]
