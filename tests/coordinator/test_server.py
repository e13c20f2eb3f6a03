"""The server on a real loopback port: honest agents, strangers, liars, and faults of our own."""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import threading
import time

import numpy as np
import pytest

from coordinator import server as server_module
from coordinator.authority import Authority, new_secret
from coordinator.server import Connection, Server, Strangers
from coordinator.service import Service, start_task
from coordinator.store import Store
from edge_runtime import agent, messages
from edge_runtime._kernels import SystemRng
from edge_runtime.channel import Channel, client_context, server_context, unverified_context
from edge_runtime.conversation import Conversation
from edge_runtime.errors import DeviceFault, RemoteError
from edge_runtime.identity import Home, join
from edge_runtime.join_code import JoinCode
from edge_runtime.messages import PROTOCOL, Enrol, GetAuthority, GetTask, Hello, Offer, Refusal, Wait, Welcome
from edge_runtime.params import Tensor
from edge_runtime.transports.tcp import TcpPipe


class Fleet:
    """A coordinator's home, its server in a thread of its own, and devices that joined."""

    def __init__(self, folder, task):
        self.folder, self.task = folder, task
        self.authority = Authority.create(folder / "coordinator")
        self.store = Store(folder / "coordinator" / "fleet.sqlite")
        with self.store.transaction():
            start_task(self.store, task, params=np.zeros(task.model.parameter_count, np.float32), now_s=0.0)
        self.homes = []
        self.thread = None
        self.opened = []

    def start(self):
        paths = self.authority.paths
        context = server_context(
            certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority)
        )

        def make_service(now_s):
            return Service(
                self.store, self.authority, rng=random.Random(1), noise=SystemRng(), evaluation=None, now_s=now_s
            )

        self.server = Server(self.store, make_service, context)
        self.reason = None
        ready = threading.Event()

        async def serve():
            self.loop = asyncio.get_running_loop()
            self.running = asyncio.ensure_future(self.server.run("127.0.0.1", 0, linger_s=0.5))
            while self.server.address is None and not self.running.done():
                await asyncio.sleep(0.005)
            ready.set()
            with contextlib.suppress(asyncio.CancelledError):
                self.reason = await self.running

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        assert ready.wait(10)
        self.host, self.port = self.server.address
        self.address = f"{self.host}:{self.port}"
        return self

    def stop(self):
        for conversation in self.opened:
            conversation.close()
        if self.thread is not None and self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.running.cancel)
            self.thread.join(10)
            assert not self.thread.is_alive()
        self.store.close()

    def invite(self):
        secret, hashed = new_secret()
        other = Store(self.folder / "coordinator" / "fleet.sqlite")  # as the command does, from another process
        with other.transaction():
            other.add_invitation(hashed, time.time() + 600)
        other.close()
        return JoinCode(self.address, secret, self.authority.fingerprint)

    def join(self, name):
        home = Home(self.folder / name)
        membership = join(home, self.invite(), name=name)
        self.homes.append(home)
        return home, membership.device

    def conversation(self, home):
        self.opened.append(agent.connect(home, self.address))
        return self.opened[-1]

    def stranger(self, context=None, timeout_s=5.0):
        channel = Channel(context or unverified_context(), server_side=False, max_message_bytes=1 << 20)
        self.opened.append(Conversation(TcpPipe(self.host, self.port), channel, timeout_s=timeout_s))
        return self.opened[-1]

    def works(self):
        """An enrolled device is answered."""
        conversation = self.conversation(self.homes[0])
        try:
            return isinstance(conversation.ask(Hello(PROTOCOL, "test", "tcp")), Welcome)
        finally:
            conversation.close()


@pytest.fixture
def fleet(tmp_path, new_task):
    made = Fleet(tmp_path, new_task("central", size=3, quorum=3, rounds=2)).start()
    yield made
    made.stop()


@pytest.fixture
def member(fleet):
    return fleet.join("member")


def raw(fleet):
    connection = socket.create_connection((fleet.host, fleet.port), timeout=10)
    return contextlib.closing(connection)


def closed_by_peer(connection, within_s=10.0):
    """Whether the server hung up in time."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# A whole run


def test_agents_train_together_over_real_tls(fleet, new_device):
    for index in range(3):
        fleet.join(f"device-{index}")
    devices = [new_device(index) for index in range(3)]
    reasons = [None] * 3

    def run(index):
        reasons[index] = agent.run(devices[index], fleet.homes[index], fleet.address, wait_s=5.0)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    fleet.thread.join(10)
    assert reasons == ["all 2 rounds are done"] * 3
    assert fleet.reason == "all 2 rounds are done"
    for device, membership in zip(devices, fleet.store.devices(), strict=True):
        entries = list(device._ledger.entries())
        assert [entry.outcome for entry in entries] == ["accepted"] * 2
        for entry in entries:
            assert fleet.store.contribution(entry.task_id, entry.round, membership.device) == entry.release_id
        assert membership.bytes_up > 500
        assert membership.link == "tcp"


def test_a_held_question_is_answered_when_a_round_opens_and_not_before(fleet, record_property):
    homes = [fleet.join(f"device-{index}")[0] for index in range(3)]
    conversations = [fleet.conversation(home) for home in homes]
    heard = {}

    def ask(index):
        conversations[index].ask(Hello(PROTOCOL, "test", "tcp"))
        reply = conversations[index].ask(GetTask(20.0), patience_s=20.0)
        heard[index] = (time.perf_counter(), reply)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert heard == {}
    asked_s = time.perf_counter()
    ask(2)
    for thread in threads:
        thread.join(10)
    assert all(isinstance(reply, Offer) for _, reply in heard.values())
    latency_ms = 1000 * max(moment_s - asked_s for moment_s, _ in heard.values())
    record_property("wake_latency_ms", round(latency_ms, 1))
    assert latency_ms < 5000
    for conversation in conversations:
        conversation.close()


def test_a_device_that_hangs_up_while_its_question_is_held_is_not_counted_on(fleet):
    (home, device), (other, _) = fleet.join("first"), fleet.join("second")
    conversation = fleet.conversation(home)
    conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    conversation._channel.send(messages.encode(GetTask(30.0)))
    conversation._push()
    wait_until(lambda: device in fleet.server.service._asked_at_s)
    conversation._pipe.close()
    wait_until(lambda: device not in fleet.server.service._asked_at_s)
    assert not fleet.server._present
    assert isinstance(fleet.conversation(other).ask(Hello(PROTOCOL, "test", "tcp")), Welcome)


def test_a_device_is_gone_only_with_its_last_connection(fleet, member):
    home, device = member
    old, new = fleet.conversation(home), fleet.conversation(home)
    for conversation in (old, new):
        conversation.ask(Hello(PROTOCOL, "test", "tcp"))
        conversation.ask(GetTask(0.0))
    old.close()
    wait_until(lambda: len(fleet.server._present[device]) == 1)
    assert device in fleet.server.service._asked_at_s
    new.close()
    wait_until(lambda: device not in fleet.server.service._asked_at_s)


def test_of_many_connections_of_one_device_the_oldest_are_closed(fleet, member):
    home, device = member
    conversations = [fleet.conversation(home) for _ in range(7)]
    for conversation in conversations:
        conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    wait_until(lambda: len(fleet.server._present[device]) == 4)
    assert isinstance(conversations[-1].ask(GetTask(0.0)), Wait)
    with pytest.raises(RemoteError):
        conversations[0].ask(GetTask(0.0))
    for conversation in conversations:
        conversation.close()


def wait_until(condition, within_s=5.0):
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


# Strangers


def test_garbage_instead_of_tls_ends_that_connection_only(fleet, member):
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\n"):
        with raw(fleet) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
            assert closed_by_peer(connection)
    assert fleet.works()


def test_one_that_says_nothing_or_a_byte_now_and_then_is_closed(tmp_path, new_task, monkeypatch):
    monkeypatch.setattr(server_module, "_STRANGER_S", 0.7)
    fleet = Fleet(tmp_path, new_task()).start()
    try:
        with raw(fleet) as silent, raw(fleet) as slow:
            started_s = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03":
                    slow.sendall(bytes([byte]))
                    time.sleep(0.1)
            assert closed_by_peer(slow)
            assert closed_by_peer(silent)
            assert 0.6 < time.monotonic() - started_s < 5
    finally:
        fleet.stop()


def test_more_strangers_than_there_is_room_for_do_not_lock_out_the_fleet(tmp_path, new_task, monkeypatch):
    monkeypatch.setattr(server_module, "_MAX_STRANGERS", 20)
    fleet = Fleet(tmp_path, new_task()).start()
    try:
        fleet.join("member")
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(raw(fleet)) for _ in range(60)]
            assert fleet.works()
            assert len(fleet.server._strangers) <= 20
            assert closed_by_peer(crowd[0])
            assert fleet.works()
    finally:
        fleet.stop()


def test_the_oldest_of_the_most_crowded_host_goes_first():
    strangers = Strangers(4)

    def caller(host):
        return Connection("tcp", None, host)  # type: ignore[arg-type]

    honest, *crowd = caller("192.0.2.1"), *(caller("198.51.100.7") for _ in range(3))
    assert [strangers.add(connection) for connection in (honest, *crowd)] == [None] * 4
    more = [caller("198.51.100.7") for _ in range(3)]
    assert [strangers.add(connection) for connection in more] == crowd
    assert len(strangers) == 4
    strangers.discard(honest)
    strangers.discard(honest)
    assert len(strangers) == 3
    assert strangers.add(honest) is None


@pytest.mark.parametrize("who", ["stranger", "device"])
def test_a_message_of_four_gibibytes_is_refused_before_it_comes(fleet, member, who):
    conversation = fleet.conversation(member[0]) if who == "device" else fleet.stranger()
    if who == "device":
        conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    else:
        conversation.ask(GetAuthority())
    conversation._channel._tls.write(b"\xff\xff\xff\xff" + bytes(1000))
    conversation._push()
    assert closed_by_peer(conversation._pipe._socket)
    assert fleet.works()


def test_a_stranger_with_a_large_request_is_cut_off_at_sixteen_kibibytes(fleet, member):
    conversation = fleet.stranger()
    conversation.ask(GetAuthority())
    conversation._channel.send(messages.encode(Enrol(bytes(16), bytes(4096), "x")) + bytes(20_000))
    conversation._push()
    assert closed_by_peer(conversation._pipe._socket)
    largest = fleet.stranger()
    reply = largest.ask(Enrol(bytes(64), bytes(4096), "x" * 40))
    assert isinstance(reply, Refusal)
    assert reply.code == "bad_code"
    largest.close()
    assert fleet.works()


def test_a_device_cannot_send_more_than_the_largest_model_takes(fleet, member):
    conversation = fleet.conversation(member[0])
    conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    conversation._channel._tls.write((24 + 64 * 1024 + 1).to_bytes(4, "big"))
    conversation._push()
    assert closed_by_peer(conversation._pipe._socket)


def test_messages_that_are_none_end_that_connection_only(fleet, member):
    for nonsense in (b"", b"\xff", b"\x82\x64wait\xa0", messages.encode(Wait(1.0)), b"\x9f" * 100):
        conversation = fleet.conversation(member[0])
        conversation.ask(Hello(PROTOCOL, "test", "tcp"))
        conversation._channel.send(nonsense)
        conversation._push()
        assert closed_by_peer(conversation._pipe._socket)
    assert fleet.works()


def test_a_stranger_learns_the_authority_and_nothing_else(fleet):
    conversation = fleet.stranger()
    assert conversation.ask(GetAuthority()) == messages.Authority(fleet.authority.certificate)
    for request in (Hello(PROTOCOL, "x", "tcp"), GetTask(60.0)):
        reply = conversation.ask(request)
        assert isinstance(reply, Refusal)
        assert reply.code == "not_enrolled"
    conversation.close()


# Certificates


def test_a_device_of_another_fleet_is_not_let_in(fleet, member, tmp_path, new_task):
    other = Fleet(tmp_path / "other", new_task()).start()
    try:
        home, _ = other.join("foreigner")
        context = client_context(
            certificate=str(home.certificate), key=str(home.key), authority=str(fleet.authority.paths.authority)
        )
        with pytest.raises(RemoteError):
            fleet.stranger(context).ask(Hello(PROTOCOL, "x", "tcp"))
        with pytest.raises(RemoteError, match="certificate"):  # nor does it trust this coordinator
            fleet.conversation(home).ask(Hello(PROTOCOL, "x", "tcp"))
    finally:
        other.stop()
    assert fleet.works()


def test_the_certificate_of_another_device_is_useless_without_its_key(fleet):
    (one, _), (two, _) = fleet.join("one"), fleet.join("two")
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        client_context(certificate=str(one.certificate), key=str(two.key), authority=str(one.authority))


def test_a_certificate_that_the_store_does_not_pin_is_not_in_the_fleet(fleet, member):
    home, _ = member
    renamed = fleet.authority.issue(request_of(home))[2]  # signed by the authority, for the same key, never handed out
    home.certificate.write_text(ssl.DER_cert_to_PEM_cert(renamed))
    reply = fleet.conversation(home).ask(Hello(PROTOCOL, "x", "tcp"))
    assert isinstance(reply, Refusal)
    assert reply.code == "unknown_device"


def request_of(home):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    key = load_pem_private_key(home.key.read_bytes(), password=None)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, None).public_bytes(Encoding.DER)


def test_a_removed_device_is_refused_on_the_connection_it_has(fleet, member):
    home, device = member
    conversation = fleet.conversation(home)
    conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    other = Store(fleet.folder / "coordinator" / "fleet.sqlite")
    with other.transaction():
        other.revoke(device)
    other.close()
    reply = conversation.ask(GetTask(20.0))
    assert isinstance(reply, Refusal)
    assert reply.code == "unknown_device"
    conversation.close()
    assert isinstance(fleet.conversation(home).ask(Hello(PROTOCOL, "x", "tcp")), Refusal)


# Devices that are odd


def test_a_device_may_send_its_requests_all_at_once_and_is_answered_in_order(fleet, member):
    conversation = fleet.conversation(member[0])
    conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    for _ in range(300):
        conversation._channel.send(messages.encode(GetTask(0.0)))
        conversation._channel.send(messages.encode(Hello(PROTOCOL, "again", "tcp")))
    conversation._push()
    answers = []
    while len(answers) < 600:
        arrived = conversation._channel.receive(conversation._pipe.read(5.0))
        answers += [type(messages.decode(message, peer="the coordinator")) for message in arrived]
    assert answers == [Wait, Welcome] * 300
    conversation.close()


def test_a_device_that_does_not_read_its_answers_stops_being_read(fleet, member):
    conversation = fleet.conversation(member[0])
    conversation.ask(Hello(PROTOCOL, "test", "tcp"))
    connection = conversation._pipe._socket
    connection.settimeout(0.5)
    request = messages.encode(GetTask(0.0))

    def send(bytes_count):
        sent = 0
        while sent < bytes_count:
            for _ in range(1000):
                conversation._channel.send(request)
            data = conversation._channel.bytes_to_send()
            connection.sendall(data)
            sent += len(data)

    with pytest.raises(TimeoutError):
        send(200_000_000)
    assert fleet.works()


# Faults of our own


def test_a_request_that_the_service_cannot_stand_is_refused_alone(fleet, member, caplog, monkeypatch):
    handle = Service.handle

    def broken(self, peer, request, now_s):
        if isinstance(request, Hello) and request.software == "poison":
            self._store.add_invitation(b"half done", 0.0)
            self.version += 1
            raise ZeroDivisionError("a mistake of ours")
        return handle(self, peer, request, now_s)

    monkeypatch.setattr(Service, "handle", broken)
    other, _ = fleet.join("other")
    with caplog.at_level(logging.CRITICAL, logger="fedge.coordinator"):
        good, bad = fleet.conversation(other), fleet.conversation(member[0])
        for conversation, software in ((good, "fine"), (bad, "poison"), (good, "fine")):
            reply = conversation.ask(Hello(PROTOCOL, software, "tcp"))
            assert isinstance(reply, Refusal if software == "poison" else Welcome)
            if isinstance(reply, Refusal):
                assert (reply.fault, reply.code) == ("coordinator", "internal")
    assert fleet.store.invitation(b"half done") is None
    good.close()
    bad.close()


def test_a_round_that_cannot_go_on_keeps_the_fleet_connected(fleet, member, caplog, monkeypatch):
    def broken(self, now_s):
        raise ZeroDivisionError("a mistake of ours")

    conversation = fleet.conversation(member[0])
    with caplog.at_level(logging.CRITICAL, logger="fedge.coordinator"), monkeypatch.context() as patch:
        patch.setattr(Service, "tick", broken)
        assert isinstance(conversation.ask(Hello(PROTOCOL, "x", "tcp")), Welcome)
        assert isinstance(conversation.ask(GetTask(0.0)), Wait)
    assert isinstance(conversation.ask(GetTask(0.0)), Wait)
    conversation.close()


def test_while_the_disk_is_full_devices_are_put_off_and_nothing_is_lost(fleet, caplog):
    homes = [fleet.join(f"device-{index}")[0] for index in range(3)]
    conversations = [fleet.conversation(home) for home in homes]
    for conversation in conversations:
        conversation.ask(Hello(PROTOCOL, "test", "tcp"))
        conversation.ask(GetTask(0.0))
    offer = conversations[0].ask(GetTask(5.0))
    assert isinstance(offer, Offer)

    def contribution(index):
        update = Tensor.of(np.array([1, 0, 0, 0, 0, index], np.int8))
        return messages.Contribute(offer.task_id, offer.round, f"release-{index:04d}", update)

    assert conversations[0].ask(contribution(0)).status == "accepted"
    full = threading.Event()
    full.set()
    add = Store.add_contribution

    def on_a_full_disk(self, *values):
        add(self, *values)
        if full.is_set():
            raise DeviceFault("the coordinator's store cannot be written: database or disk is full")

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.CRITICAL, logger="fedge.coordinator"):
        patch.setattr(Store, "add_contribution", on_a_full_disk)
        reply = conversations[1].ask(contribution(1))
        assert isinstance(reply, Refusal)
        assert (reply.fault, reply.code) == ("coordinator", "storage")
        assert conversations[0].ask(contribution(0)).status == "accepted"
        full.clear()
        for index in (1, 2):
            assert conversations[index].ask(contribution(index)).status == "accepted"
    assert fleet.server.service._committed == 1
    assert fleet.store.answers(offer.task_id)[offer.round] == (3, 0)
    for conversation in conversations:
        conversation.close()


def test_an_address_in_use_is_told_with_what_to_do(fleet):
    async def again():
        await Server(fleet.store, fleet.server._make_service, fleet.server._context).run(fleet.host, fleet.port)

    with pytest.raises(DeviceFault, match=r"cannot listen on 127.0.0.1:\d+: .* choose another --listen"):
        asyncio.run(again())


def test_port_zero_is_replaced_by_the_one_the_system_chose(fleet):
    assert fleet.port > 0
    assert fleet.server.address == ("127.0.0.1", fleet.port)


def test_an_answer_as_large_as_a_model_leaves_in_pieces(fleet):
    paths = fleet.authority.paths
    context = server_context(certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority))
    near = Channel(context, server_side=True, max_message_bytes=1000)
    far = Channel(unverified_context(), server_side=False, max_message_bytes=1 << 24)
    near.receive(far.bytes_to_send())
    far.receive(near.bytes_to_send())
    near.receive(far.bytes_to_send())
    for size in (0, 1, 65_535, 65_536, 65_537, 1 << 20):
        message = random.Random(size).randbytes(size)
        arrived = []
        for piece in near.pieces(message):
            assert len(piece) < 70_000
            arrived += far.receive(piece)
        assert arrived == [message]
