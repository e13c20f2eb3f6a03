from __future__ import annotations

import ssl
import tracemalloc

import pytest

from edge_runtime.channel import Channel, client_context, unverified_context
from edge_runtime.errors import RemoteError

LIMIT = 16 * 1024


class Pair:
    """A device's and a coordinator's channel with nothing between them."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, limit: int = LIMIT) -> None:
        self.server = Channel(server, server_side=True, max_message_bytes=limit)
        self.client = Channel(client, server_side=False, max_message_bytes=limit)
        self.at_server: list[bytes] = []
        self.at_client: list[bytes] = []

    def settle(self) -> None:
        while True:
            up, down = self.client.bytes_to_send(), self.server.bytes_to_send()
            if not up and not down:
                return
            if up:
                self.at_server += self.server.receive(up)
            if down:
                self.at_client += self.client.receive(down)


@pytest.fixture
def pair(fleet) -> Pair:
    pair = Pair(fleet.server(), fleet.client())
    pair.settle()
    return pair


def test_each_side_knows_the_other_by_its_certificate(pair, fleet) -> None:
    assert pair.client.established
    assert pair.server.established
    device = ssl.PEM_cert_to_DER_cert(fleet.home.certificate.read_text())
    assert pair.server.peer_certificate == device
    assert pair.client.peer_certificate == ssl.PEM_cert_to_DER_cert(fleet.authority.paths.server.read_text())


def test_messages_arrive_whole_and_in_order_also_those_sent_before_the_handshake(fleet) -> None:
    pair = Pair(fleet.server(), fleet.client())
    sent = [b"first", b"", b"x" * 5000]
    for message in sent:
        pair.client.send(message)
    pair.settle()
    pair.server.send(b"answer")
    pair.settle()
    assert pair.at_server == sent
    assert pair.at_client == [b"answer"]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 16, 61, 500])
def test_it_does_not_matter_where_the_bytes_are_split(fleet, step: int) -> None:
    pair = Pair(fleet.server(), fleet.client())
    pair.client.send(b"question")
    pair.client.send(b"another")
    arrived: list[bytes] = []
    for _ in range(4):
        up = pair.client.bytes_to_send()
        for start in range(0, len(up), step):
            arrived += pair.server.receive(up[start : start + step])
        down = pair.server.bytes_to_send()
        for start in range(0, len(down), step):
            pair.client.receive(down[start : start + step])
    assert arrived == [b"question", b"another"]


def test_every_split_in_two_of_a_record_gives_the_same_messages(pair) -> None:
    for end in range(60):
        pair.client.send(b"%03d" % end)
        data = pair.client.bytes_to_send()
        arrived = pair.server.receive(data[:end]) if end else []
        assert arrived + pair.server.receive(data[end:]) == [b"%03d" % end] if end < len(data) else arrived


def test_many_messages_in_one_read(pair) -> None:
    for index in range(50):
        pair.client.send(b"%d" % index)
    assert pair.server.receive(pair.client.bytes_to_send()) == [b"%d" % index for index in range(50)]


def test_a_message_of_a_mebibyte_takes_little_more_than_itself(fleet) -> None:
    pair = Pair(fleet.server(), fleet.client(), limit=1 << 20)
    pair.settle()
    message = bytes(range(256)) * 4096
    pair.client.send(message)
    data = pair.client.bytes_to_send()
    tracemalloc.start()
    try:
        assert pair.server.receive(data) == [message]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("declared", [LIMIT + 1, 2**31, 2**32 - 1])
def test_a_declared_length_above_the_limit_is_refused_before_there_is_room_for_it(pair, declared: int) -> None:
    pair.client._tls.write(declared.to_bytes(4, "big"))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError, match=f"declares a message of {declared} bytes, the limit is {LIMIT}"):
            pair.server.receive(pair.client.bytes_to_send())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


def test_the_limit_itself_is_taken_and_can_be_raised(pair) -> None:
    pair.client.send(b"x" * LIMIT)
    pair.settle()
    pair.server.max_message_bytes = 2 * LIMIT
    pair.client.send(b"x" * 2 * LIMIT)
    pair.settle()
    assert [len(message) for message in pair.at_server] == [LIMIT, 2 * LIMIT]


def test_a_device_without_a_certificate_is_let_in_as_nobody(fleet) -> None:
    pair = Pair(fleet.server(), fleet.client(anonymous=True))
    pair.settle()
    assert pair.server.established
    assert pair.server.peer_certificate is None


def test_a_device_of_another_fleet_is_refused(fleet, stranger_fleet) -> None:
    stranger = client_context(
        certificate=str(stranger_fleet.home.certificate),
        key=str(stranger_fleet.home.key),
        authority=str(fleet.home.authority),
    )
    pair = Pair(fleet.server(), stranger)
    with pytest.raises(RemoteError, match="the peer's certificate was not accepted"):
        pair.settle()
    with pytest.raises(RemoteError, match=r"TLS failed: tlsv1 alert"):  # told why
        pair.client.receive(pair.server.bytes_to_send())


def test_a_coordinator_of_another_authority_is_refused_and_hears_nothing(fleet, stranger_fleet) -> None:
    pair = Pair(stranger_fleet.server(), fleet.client())
    pair.client.send(b"a secret")
    with pytest.raises(RemoteError, match="the peer's certificate was not accepted"):
        pair.settle()
    pair.server.receive(b"")
    assert pair.at_server == []


def test_a_device_cannot_pose_as_the_coordinator(fleet) -> None:
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(fleet.home.certificate, fleet.home.key)
    pair = Pair(impostor, fleet.client())
    with pytest.raises(RemoteError, match="the peer's certificate was not accepted"):
        pair.settle()


def test_nothing_older_than_tls_1_3_is_spoken(fleet) -> None:
    old = unverified_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = Pair(fleet.server(), old)
    with pytest.raises(RemoteError, match="TLS failed"):
        pair.settle()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 400, b"\x16\x03\x01\xff\xff" + b"x" * 400])
def test_garbage_instead_of_tls_is_the_peers_fault(fleet, garbage: bytes) -> None:
    with pytest.raises(RemoteError, match="TLS failed"):
        Channel(fleet.server(), server_side=True, max_message_bytes=LIMIT).receive(garbage)
    with pytest.raises(RemoteError, match="TLS failed"):
        Channel(fleet.client(), server_side=False, max_message_bytes=LIMIT).receive(garbage)


def test_a_changed_bit_on_the_way_is_the_peers_fault(fleet) -> None:
    for position in (0, 3, 5, 12, -1):
        pair = Pair(fleet.server(), fleet.client())
        pair.settle()
        pair.client.send(b"a message")
        data = bytearray(pair.client.bytes_to_send())
        data[position] ^= 1
        try:
            assert pair.server.receive(bytes(data)) == []  # a longer length: the rest is waited for
        except RemoteError:
            continue
        assert position == 3


def test_a_goodbye_closes_and_what_was_sent_before_it_arrives(pair) -> None:
    pair.client.send(b"last")
    pair.client.close()
    assert pair.server.receive(pair.client.bytes_to_send()) == [b"last"]
    assert pair.server.closed


def test_nothing_is_taken_after_a_goodbye(pair) -> None:
    pair.client.close()
    pair.server.receive(pair.client.bytes_to_send())
    assert pair.server.receive(b"\0\0\0\5hello") == []
    assert pair.server.receive(b"") == []
    assert pair.server.receive(b"more") == []
    assert pair.server.closed


def test_nothing_is_sent_after_our_goodbye(pair) -> None:
    pair.client.close()
    with pytest.raises(RemoteError, match="the conversation is over"):
        pair.client.send(b"one more thing")
    pair.client.close()  # may be repeated


def test_an_end_without_goodbye_closes_and_drops_the_part_of_a_message(pair) -> None:
    pair.client._tls.write(b"\0\0\0\x10half")
    assert pair.server.receive(pair.client.bytes_to_send()) == []
    assert pair.server.receive(b"") == []
    assert pair.server.closed


def test_an_end_during_the_handshake_closes(fleet) -> None:
    channel = Channel(fleet.server(), server_side=True, max_message_bytes=LIMIT)
    assert channel.receive(b"") == []
    assert channel.closed
    assert not channel.established
    channel.close()
