from __future__ import annotations

import contextlib
import os
import socket
import string
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_runtime.durable
import edge_runtime.identity
from edge_runtime.channel import Channel
from edge_runtime.durable import write_file
from edge_runtime.errors import DeviceFault, LocalError, RemoteError
from edge_runtime.identity import Home, Membership, device_context, join, load_membership, save_membership
from edge_runtime.join_code import JoinCode
from edge_runtime.ledger import Ledger
from edge_runtime.messages import Authority, Enrol, Enrolled, GetAuthority, Refusal, Request, decode, encode
from edge_runtime.privacy.laplace import LaplaceEvent

CODE = JoinCode("192.0.2.7:7433", bytes(range(16)), bytes(range(16, 32)))


# The join code


@given(st.builds(JoinCode, st.text(min_size=1, max_size=60), st.binary(min_size=16, max_size=16), st.just(bytes(16))))
def test_a_code_comes_back_equal_from_its_text(code: JoinCode) -> None:
    assert JoinCode.parse(code.text()) == code
    assert set(code.text()) <= set(string.ascii_letters + string.digits + "-_")


def test_blanks_and_line_breaks_of_a_copied_code_do_not_matter() -> None:
    text = CODE.text()
    assert JoinCode.parse(f"  {text[:20]}\n{text[20:50]} {text[50:]}\n") == CODE


def test_every_single_character_changed_left_out_or_doubled_is_refused() -> None:
    text = CODE.text()
    for position, right in enumerate(text):
        others = {"A", "z", "0", "-", "_", "=", "+", "/", "\u00e9", right.swapcase(), chr(ord(right) ^ 1)} - {right}
        changed = [text[:position] + other + text[position + 1 :] for other in others]
        for wrong in [*changed, text[:position] + text[position + 1 :], text[:position] + right + text[position:]]:
            if "".join(wrong.split()) != text:
                with pytest.raises(LocalError):
                    JoinCode.parse(wrong)


@pytest.mark.parametrize("host", ["a", "ab", "abc"])
def test_the_spare_bits_of_the_last_character_are_no_second_way_to_write_a_code(host: str) -> None:
    text = JoinCode(f"{host}:7433", bytes(16), bytes(16)).text()
    for last in set(string.ascii_letters + string.digits + "-_") - {text[-1]}:
        with pytest.raises(LocalError):
            JoinCode.parse(text[:-1] + last)


def test_every_truncation_and_any_other_text_is_refused() -> None:
    text = CODE.text()
    for end in range(len(text)):
        with pytest.raises(LocalError):
            JoinCode.parse(text[:end])
    for other in (
        "",
        "fedge1-",
        "fedge2-" + text[7:],
        "kubeadm join 10.0.0.1:6443",
        "MT:Y.K9042C00KA0648G00",
        text * 2,
    ):
        with pytest.raises(LocalError):
            JoinCode.parse(other)


# A home


def test_a_membership_survives_its_file_whatever_its_text(tmp_path) -> None:
    home = Home(tmp_path)
    membership = Membership("dev-1", 'a "b" \\ \u00fc', "tcp:[::1]:7433", "/data/\u2603 x.csv")
    save_membership(home, membership)
    assert load_membership(home) == membership


@pytest.mark.parametrize("text", [b"\xff", b"device = ", b'device = "x"', b"name = " + b"1" * 5000])
def test_a_damaged_membership_is_named(tmp_path, text: bytes) -> None:
    Home(tmp_path).membership.write_bytes(text)
    with pytest.raises(LocalError, match=r"membership\.toml"):
        load_membership(Home(tmp_path))


def test_a_home_without_a_fleet_says_how_to_join(tmp_path) -> None:
    with pytest.raises(LocalError, match="fedge device join CODE --home"):
        load_membership(Home(tmp_path))


def test_an_identity_that_is_damaged_is_named(tmp_path) -> None:
    home = Home(tmp_path)
    with pytest.raises(LocalError, match="cannot be used"):
        device_context(home)
    for path in (home.key, home.certificate, home.authority):
        path.write_text("garbage")
    with pytest.raises(LocalError, match="cannot be used"):
        device_context(home)


# Joining a coordinator that is not what it should be


class FakeCoordinator:
    """Answers every request over TLS with what ``answer`` says; notes what it was told."""

    def __init__(self, context, answer: Callable[[Request], object]) -> None:
        self.heard: list[Request] = []
        self.address = ""
        self._context, self._answer = context, answer
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
                with connection, contextlib.suppress(RemoteError, OSError):
                    self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        channel = Channel(self._context, server_side=True, max_message_bytes=1 << 20)
        while not channel.closed and (data := connection.recv(65_536)):
            for message in channel.receive(data):
                request = decode(message, peer="device")
                self.heard.append(request)
                channel.send(encode(self._answer(request)))
            connection.sendall(channel.bytes_to_send())


@pytest.fixture
def fake(fleet) -> Iterator[Callable[[Callable[[Request], object]], tuple[FakeCoordinator, JoinCode]]]:
    """A function that starts a coordinator with the given answers; and its join code."""
    running: list[FakeCoordinator] = []

    def start(answer: Callable[[Request], object]) -> tuple[FakeCoordinator, JoinCode]:
        running.append(FakeCoordinator(fleet.server(), answer))
        return running[-1], JoinCode(running[-1].address, b"s" * 16, fleet.authority.fingerprint)

    yield start
    for one in running:
        one.close()


def honest(fleet, request: Request) -> object:
    if isinstance(request, GetAuthority):
        return Authority(fleet.authority.certificate)
    assert isinstance(request, Enrol)
    device, _, certificate = fleet.authority.issue(request.request)
    return Enrolled(device, certificate)


def test_a_coordinator_that_the_code_does_not_name_is_told_nothing(fake, stranger_fleet, tmp_path) -> None:
    coordinator, code = fake(lambda request: Authority(stranger_fleet.authority.certificate))
    home = Home(tmp_path / "home")
    with pytest.raises(RemoteError, match="is not the one that wrote this join code: nothing was told to it"):
        join(home, code, name="porch")
    assert coordinator.heard == [GetAuthority()]
    assert not home.authority.exists()
    assert not home.membership.exists()


def test_a_coordinator_that_shows_the_right_authority_without_its_key_is_not_shown_the_secret(
    fleet, stranger_fleet, tmp_path
) -> None:
    """Somebody in between can fetch the real authority's certificate and pass it on, and that is all."""
    coordinator = FakeCoordinator(stranger_fleet.server(), lambda request: Authority(fleet.authority.certificate))
    code = JoinCode(coordinator.address, b"s" * 16, fleet.authority.fingerprint)
    with pytest.raises(RemoteError, match="certificate was not accepted"):
        join(Home(tmp_path / "home"), code, name="porch")
    coordinator.close()
    assert coordinator.heard == [GetAuthority()]


def test_a_certificate_for_somebody_elses_key_is_no_membership(fake, fleet, tmp_path) -> None:
    def answer(request: Request) -> object:
        if isinstance(request, Enrol):
            return Enrolled("dev-1", fleet.authority.certificate)
        return honest(fleet, request)

    _, code = fake(answer)
    home = Home(tmp_path / "home")
    with pytest.raises(RemoteError, match="does not belong to this device's key"):
        join(home, code, name="porch")
    assert not home.membership.exists()


@pytest.mark.parametrize("which", [GetAuthority, Enrol])
def test_a_refusal_and_nonsense_are_told_without_control_characters(fake, fleet, tmp_path, which) -> None:
    for reply, words in [(Refusal("device", "x", "no\x1b[2J"), r"no\?\[2J"), (GetAuthority(), "a device's request")]:
        _, code = fake(lambda request, reply=reply: reply if isinstance(request, which) else honest(fleet, request))
        with pytest.raises(RemoteError, match=words):
            join(Home(tmp_path / "home"), code, name="porch")


def test_an_id_that_cannot_be_printed_is_refused(fake, fleet, tmp_path) -> None:
    def answer(request: Request) -> object:
        reply = honest(fleet, request)
        return Enrolled("dev\x1b]0;", reply.certificate) if isinstance(reply, Enrolled) else reply

    _, code = fake(answer)
    with pytest.raises(RemoteError, match="an id that cannot be printed"):
        join(Home(tmp_path / "home"), code, name="porch")


@pytest.mark.parametrize("name", ["", " ", "x" * 41, "a\nb", "a\x1b[2J"])
def test_a_name_that_people_cannot_read_is_refused(tmp_path, name: str) -> None:
    with pytest.raises(LocalError, match=r"want 1\.\.40 characters"):
        join(Home(tmp_path / "home"), CODE, name=name)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "a..b:7433", "x\0y:7433", "[::1]:1", "\u00fc" * 100 + ":7433"])
def test_nobody_at_the_address_is_told_in_words(tmp_path, address: str) -> None:
    with pytest.raises(RemoteError, match="no coordinator answers at"):
        join(Home(tmp_path / "home"), CODE, name="porch", address=address)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":7433", "host:x", "host:99999", "host:\u00b2", "host:-1", "serial:"]
)
def test_what_is_no_address_is_refused(tmp_path, address: str) -> None:
    with pytest.raises(LocalError, match="is no "):
        join(Home(tmp_path / "home"), CODE, name="porch", address=address or "x")


# Joining the real coordinator


def test_a_device_joins_and_its_files_are_its_owners_alone(coordinator, new_task, tmp_path) -> None:
    running = coordinator(new_task())
    home = Home(tmp_path / "home")
    old_umask = os.umask(0)
    try:
        membership = join(home, running.invite(), name="porch", data="/data.csv")
    finally:
        os.umask(old_umask)
    assert load_membership(home) == membership
    assert home.path.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in home.path.iterdir()}
    assert files == dict.fromkeys(
        ["device.key", "device.crt", "authority.crt", "membership.toml", "ledger.sqlite"], 0o600
    )
    device_context(home)
    with pytest.raises(LocalError, match="belongs to a fleet already"):
        join(home, running.invite(), name="porch")


class Crash(BaseException):
    pass


def test_after_a_crash_at_any_file_joining_again_gives_the_same_identity(coordinator, new_task, tmp_path, monkeypatch):
    running = coordinator(new_task())
    home, code = Home(tmp_path / "home"), running.invite()
    names = ["authority.crt", "device.key", "device.crt", "membership.toml"]
    for name in names:

        def crashing(path, data, *, mode: int = 0o600, stop=name) -> None:
            write_file(path, data, mode=mode)
            if path.name == stop:
                raise Crash

        monkeypatch.setattr(edge_runtime.identity, "write_file", crashing)
        with pytest.raises(Crash):
            join(home, code, name="porch")
        if name == "device.key":
            key = home.key.read_bytes()
    monkeypatch.undo()
    assert load_membership(home).device.startswith("dev-")  # the last file was the whole of it
    home.membership.unlink()
    membership = join(home, code, name="porch")
    assert home.key.read_bytes() == key
    assert load_membership(home) == membership


def test_a_used_code_serves_no_second_device(coordinator, new_task, tmp_path) -> None:
    running = coordinator(new_task())
    code = running.invite()
    join(Home(tmp_path / "one"), code, name="one")
    with pytest.raises(RemoteError, match="was used by another device"):
        join(Home(tmp_path / "two"), code, name="two")


def test_joining_again_does_not_forget_what_was_spent(coordinator, new_task, tmp_path) -> None:
    running = coordinator(new_task())
    home, code = Home(tmp_path / "home"), running.invite()
    join(home, code, name="porch")
    ledger = Ledger(home.ledger, create=False)
    ledger.charge(
        release_id="release-1",
        task_id="t",
        round_number=1,
        place="local",
        event=LaplaceEvent(1000, 10),
        message=b"",
        budget=9.0,
        now_s=0.0,
    )
    ledger.close()
    home.membership.unlink()
    join(home, code, name="porch")
    ledger = Ledger(home.ledger, create=False)
    assert ledger.spent_epsilon > 0.6
    ledger.close()


def test_a_damaged_key_is_told_and_not_replaced(fake, fleet, tmp_path) -> None:
    _, code = fake(lambda request: honest(fleet, request))
    home = Home(tmp_path)
    home.key.write_text("garbage")
    with pytest.raises(LocalError, match=r"device\.key cannot be read"):
        join(home, code, name="porch")
    assert home.key.read_text() == "garbage"


def test_a_full_disk_leaves_no_membership(fake, fleet, tmp_path, monkeypatch) -> None:
    _, code = fake(lambda request: honest(fleet, request))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge_runtime.durable.os, "fsync", full)
    with pytest.raises(DeviceFault, match="No space left"):
        join(Home(tmp_path / "home"), code, name="porch")
    assert not (tmp_path / "home" / "membership.toml").exists()


@pytest.mark.parametrize(
    "changes", [{"data": "/" + "d" * 400 + ".csv"}, {"address": "h" * 200 + ":1"}, {"data": "/tmp/\udcff.csv"}]
)
def test_a_membership_that_could_not_be_read_again_is_refused_before_anybody_is_asked(
    fake, fleet, tmp_path, changes: dict[str, str]
) -> None:
    coordinator, code = fake(lambda request: honest(fleet, request))
    with pytest.raises(LocalError, match=r"outside|not valid UTF-8"):
        join(Home(tmp_path / "home"), code, **({"name": "porch", "address": coordinator.address} | changes))
    assert coordinator.heard == []
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("same", [True, False])
def test_a_release_for_another_authority_is_given_up_on_joining(fake, fleet, stranger_fleet, tmp_path, same) -> None:
    _, code = fake(lambda request: honest(fleet, request))
    home = Home(tmp_path / "home")
    home.path.mkdir(mode=0o700)
    home.authority.write_bytes((fleet if same else stranger_fleet).home.authority.read_bytes())
    with contextlib.closing(Ledger(home.ledger, create=True)) as ledger:
        ledger.charge(
            release_id="release-1",
            task_id="t",
            round_number=1,
            place="central",
            event=LaplaceEvent(64, 6),
            message=b"for them",
            budget=9.0,
            now_s=0.0,
        )
    join(home, code, name="porch")
    with contextlib.closing(Ledger(home.ledger, create=False)) as ledger:
        assert ledger.unacknowledged() == (b"for them" if same else None)
        assert ledger.spent_epsilon > 0
