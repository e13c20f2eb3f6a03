"""The link under fault schedules that Hypothesis picks and shrinks, in virtual time."""

import heapq
import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError
from firmware_bridge.frame import Ack, Frame, FrameDecoder, FrameType, encode_frame
from firmware_bridge.link import Data, Incompatible, Link, LinkUp, PeerReset
from firmware_bridge.virtual_line import VirtualLine, measure_goodput

# ---- a network that does to frames what a schedule says --------------------------------------------------------------


class Side:
    """A link, what it was given, and what came out of it, by session."""

    def __init__(self, epoch: int, now_s: float, buffer_bytes: int = 0) -> None:
        self.link = Link(epoch=epoch, now_s=now_s, receive_buffer_bytes=buffer_bytes, identity=b"side")
        self.accepted: dict[tuple[int, int], bytearray] = {}  # by (own epoch, peer's epoch)
        self.delivered: dict[tuple[int, int], bytearray] = {}
        self.session: tuple[int, int] | None = None
        self.resets = 0
        self.held = 0

    def take(self, events: list) -> None:
        for event in events:
            match event:
                case LinkUp(identity, peer_epoch):
                    assert identity == b"side"
                    self.session = (self.link.epoch, peer_epoch)
                    assert self.session not in self.delivered, "a pair of nonces names one session"
                    self.delivered[self.session] = bytearray()
                    self.accepted.setdefault(self.session, bytearray())
                case PeerReset(ended):
                    assert self.session is not None
                    assert self.session[1] == ended
                    self.session = None
                    self.resets += 1
                case Data(stream, payload):
                    assert self.session is not None
                    assert stream == 5
                    self.delivered[self.session] += payload
                    self.held += len(payload)
                case Incompatible():
                    raise AssertionError("nobody speaks another version")

    def offer(self, data: bytes, now_s: float) -> int:
        if self.session is None:
            return 0
        count = self.link.send(5, data, now_s)
        self.accepted[self.session] += data[:count]
        return count


class Network:
    """Delivers frames between two sides after ``fate`` has been at them: a list of (copies, delay_s, corrupt)."""

    def __init__(self, fates: list[tuple[int, float, bool]], seed: int, buffer_bytes: int = 0) -> None:
        self.now_s = 100.0
        self.epochs = itertools.count(1)
        self.buffer_bytes = buffer_bytes
        self.sides = [Side(next(self.epochs), self.now_s, buffer_bytes) for _ in range(2)]
        self.retired: list[tuple[int, Side]] = []
        self.fates = fates
        self.random = random.Random(seed)
        self.order = itertools.count()
        self.flying: list[tuple[float, int, int, bytes]] = []
        self.frame = 0

    def restart(self, which: int) -> None:
        self.retired.append((which, self.sides[which]))
        self.sides[which] = Side(next(self.epochs) * 1000, self.now_s, self.buffer_bytes)

    def run(self, until_s: float, clean: bool = False) -> None:
        while self.now_s < until_s:
            for which, side in enumerate(self.sides):
                while data := side.link.bytes_to_send(self.now_s, 1):
                    self.launch(which, data, clean)
            times = [t for side in self.sides if (t := side.link.wakeup_at()) is not None]
            times += [self.flying[0][0]] if self.flying else []
            self.now_s = min(until_s, max(self.now_s + 1e-6, min(times, default=until_s)))
            while self.flying and self.flying[0][0] <= self.now_s:
                _, _, to, data = heapq.heappop(self.flying)
                self.sides[to].take(self.sides[to].link.receive(data, self.now_s))

    def launch(self, which: int, data: bytes, clean: bool) -> None:
        copies, delay_s, corrupt = (1, 0.0, False) if clean else self.fates[self.frame % len(self.fates)]
        self.frame += 1
        for copy in range(copies):
            body = bytearray(data)
            if corrupt:
                body[self.random.randrange(len(body))] ^= self.random.randrange(1, 256)
            at_s = self.now_s + len(data) * 10 / 115200 + delay_s * (copy + 1)
            heapq.heappush(self.flying, (at_s, next(self.order), 1 - which, bytes(body)))

    def check(self, complete: bool) -> None:
        """What each side delivered in a session is a prefix of what the other accepted in it; all of it if complete."""
        everyone = [*self.retired, *enumerate(self.sides)]
        for which, receiver in everyone:
            for (own, peer), got in receiver.delivered.items():
                sources = [s.accepted[peer, own] for w, s in everyone if w != which and (peer, own) in s.accepted]
                assert len(sources) <= 1
                sent = sources[0] if sources else bytearray()
                assert sent.startswith(got)
        if complete:
            for which in (0, 1):
                me, other = self.sides[which], self.sides[1 - which]
                assert me.session is not None
                assert other.session == (me.session[1], me.session[0])
                assert other.delivered[other.session] == me.accepted[me.session]
                assert me.link.unacked_bytes == 0


fates = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1, 1, 2, 3]),
        st.sampled_from([0.0, 0.0, 0.0, 0.004, 0.03, 0.3]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=40,
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 3000)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 400)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.just(0)),
    ),
    max_size=14,
)
slow = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def play(network: Network, script: list[tuple[str, int, int]]) -> None:
    for action, which, amount in script:
        match action:
            case "send":
                network.sides[which].offer(network.random.randbytes(amount), network.now_s)
            case "wait":
                network.run(network.now_s + amount / 100)
            case "restart":
                network.restart(which)
        network.check(complete=False)


@slow
@given(fates, actions, st.integers(0, 2**32))
def test_what_send_accepts_arrives_once_and_in_order_or_the_reset_is_named(fates, script, seed) -> None:
    network = Network(fates, seed)
    play(network, script)
    network.run(network.now_s + 60.0, clean=True)
    network.check(complete=True)
    restarts = [which for which, _ in network.retired]
    if not restarts and all(delay_s == 0.0 for _, delay_s, _ in fates):
        assert network.sides[0].resets == network.sides[1].resets == 0


@slow
@given(fates, st.integers(0, 2**32))
def test_a_line_that_loses_repeats_and_delays_never_ends_a_session_that_is_up(fates, seed) -> None:
    network = Network([(1, 0.0, False)], seed)
    network.run(network.now_s + 1.0, clean=True)
    network.fates = fates
    for _ in range(6):
        for side in network.sides:
            side.offer(network.random.randbytes(700), network.now_s)
        network.run(network.now_s + 0.5)
    network.run(network.now_s + 30.0, clean=True)
    network.check(complete=True)
    assert network.sides[0].resets == network.sides[1].resets == 0


@slow
@given(fates, st.integers(0, 2**32), st.lists(st.integers(0, 900), min_size=1, max_size=20))
def test_a_slow_reader_loses_nothing_and_holds_no_more_than_its_buffer(fates, seed, appetites) -> None:
    network = Network(fates, seed, buffer_bytes=1000)
    data = network.random.randbytes(6000)
    network.run(network.now_s + 5.0, clean=True)
    sent, (writer, reader) = 0, network.sides
    for round in range(400):
        sent += writer.offer(data[sent : sent + 2000], network.now_s)
        network.run(network.now_s + 0.05, clean=round >= 60)
        assert reader.held <= 1000
        if round >= 60 or round % 3 == 0:
            eaten = min(reader.held, appetites[round % len(appetites)] if round < 60 else 250)
            reader.held -= eaten
            reader.link.consume(eaten)
        if reader.session and len(reader.delivered[reader.session]) == len(data):
            break
    assert reader.delivered[reader.session] == data


# ---- single cases ----------------------------------------------------------------------------------------------------


def connected_pair(**options) -> VirtualLine:
    line = VirtualLine((Link(epoch=1, identity=b"host", **options), Link(epoch=2, identity=b"board", **options)))
    line.run(1.0)
    assert line.links[0].connected
    assert line.links[1].connected
    return line


def test_a_session_comes_up_with_both_identities_and_within_ten_milliseconds() -> None:
    line = VirtualLine((Link(epoch=1, identity=b"host"), Link(epoch=2, identity=b"board")))
    line.run(0.010)
    assert line.events == ([LinkUp(b"board", 2)], [LinkUp(b"host", 1)])


def test_nothing_is_sent_on_an_idle_line_without_keepalive() -> None:
    line = connected_pair()
    before = line.links[0].stats.bytes_sent
    line.run(3600.0)
    assert line.links[0].stats.bytes_sent == before
    assert line.links[0].wakeup_at() is None


def test_keepalive_tells_a_quiet_peer_from_a_missing_one() -> None:
    line = connected_pair(keepalive_s=2.0)
    line.run(60.0)
    assert line.links[0].quiet_s < 4.1
    line.plugged = False
    line.run(120.0)
    assert line.links[0].quiet_s > 55.0
    assert line.links[0].connected


@pytest.mark.parametrize("silence_s", [5.0, 600.0, 40_000.0])
def test_a_transfer_goes_on_after_silence_without_loss_or_reset(silence_s: float) -> None:
    line = connected_pair()
    data = random.Random(3).randbytes(12_000)
    assert line.links[0].send(1, data, line.now_s) == len(data)
    line.run(line.now_s + 0.4)
    line.plugged = False
    line.run(line.now_s + silence_s)
    before = line.links[0].stats
    line.plugged = True
    line.run(line.now_s + 3.0)
    assert b"".join(e.payload for e in line.events[1] if isinstance(e, Data)) == data
    assert not any(isinstance(e, PeerReset) for e in line.events[0] + line.events[1])
    # While the line is silent the link asks with 13 bytes, about once a second, and repeats no data.
    assert before.bytes_sent < 12_000 + 500 + 20 * silence_s


def test_a_restarted_peer_is_reported_and_old_frames_are_ignored() -> None:
    line = connected_pair()
    line.links[0].send(1, b"before", line.now_s)
    old_frames = line.links[0].bytes_to_send(line.now_s)
    line.links = (line.links[0], Link(epoch=99, identity=b"board", now_s=line.now_s))
    line.run(line.now_s + 2.0)
    assert [type(e) for e in line.events[0]] == [LinkUp, PeerReset, LinkUp]
    assert line.links[0].epoch != 1
    assert line.links[1].receive(old_frames, line.now_s) == []
    assert line.links[1].stats.frames_foreign >= 1
    line.links[0].send(1, b"after", line.now_s)
    line.run(line.now_s + 1.0)
    assert line.events[1][-1] == Data(1, b"after")


def test_an_echoing_line_brings_no_session_up() -> None:
    link = Link(epoch=7)
    for step in range(100):
        assert link.receive(link.bytes_to_send(step * 0.1), step * 0.1) == []
    assert not link.connected


def test_modem_commands_between_frames_cost_nothing_but_a_bad_frame() -> None:
    line = connected_pair()
    for number in range(20):
        line.links[0].send(1, b"%d;" % number, line.now_s)
        line.links[1].receive(b"AT\r\nATE1 E0\r\n", line.now_s)
        line.run(line.now_s + 0.1)
    got = b"".join(e.payload for e in line.events[1] if isinstance(e, Data))
    assert got == b"".join(b"%d;" % number for number in range(20))
    assert line.links[0].stats.frames_resent == 0


def test_a_hello_of_another_version_is_reported() -> None:
    hello = Frame(FrameType.HELLO, payload=bytes([9, 0]) + bytes(11))
    assert Link(epoch=1).receive(b"\0" + encode_frame(hello), 0.0) == [Incompatible(9)]


def test_acknowledgements_of_what_was_never_sent_are_ignored() -> None:
    line = connected_pair()
    tag = _codec.session_tag(2, 1)
    line.links[0].send(1, b"x" * 2000, line.now_s)
    for cumulative in (1, 8, 0x7FFF, 0x8000, 0xFFFF):
        lie = Frame(FrameType.ACK, session=tag, ack=Ack(cumulative, 0xFF, 255))
        line.links[0].receive(encode_frame(lie), line.now_s)
    line.run(line.now_s + 2.0)
    assert sum(len(e.payload) for e in line.events[1] if isinstance(e, Data)) == 2000


def test_data_beyond_the_credit_is_refused_and_not_stored() -> None:
    link = Link(epoch=1, receive_buffer_bytes=480)
    link.receive(encode_frame(Frame(FrameType.HELLO, payload=hello_body(2, 1))), 0.0)
    tag = _codec.session_tag(2, 1)
    for sequence in (2, 3, 7, 1, 0):
        link.receive(encode_frame(Frame(FrameType.DATA, tag, 0, sequence, bytes([sequence]) * 240)), 0.0)
    assert link.stats.frames_duplicate == 3  # 2, 3 and 7 lie beyond two payloads


def hello_body(epoch: int, peer: int, payload: int = 240) -> bytes:
    return (
        bytes([1, 0])
        + epoch.to_bytes(4, "little")
        + peer.to_bytes(4, "little")
        + payload.to_bytes(2, "little")
        + bytes([8])
    )


@pytest.mark.parametrize("body", [b"", bytes(12), hello_body(0, 0), hello_body(5, 0, 63), hello_body(5, 0) + bytes(33)])
def test_a_malformed_hello_changes_nothing(body: bytes) -> None:
    link = Link(epoch=1)
    assert link.receive(encode_frame(Frame(FrameType.HELLO, payload=body)), 0.0) == []
    assert link.peer_epoch == 0


def test_payloads_follow_the_smaller_side() -> None:
    line = VirtualLine((Link(epoch=1, max_payload_bytes=256), Link(epoch=2, max_payload_bytes=64)))
    line.run(0.5)
    line.links[0].send(0, bytes(5000), line.now_s)
    line.run(line.now_s + 2.0)
    sizes = [len(e.payload) for e in line.events[1] if isinstance(e, Data)]
    assert sum(sizes) == 5000
    assert max(sizes) == 64


def test_small_writes_share_frames_and_streams_do_not() -> None:
    line = connected_pair()
    for byte in range(100):
        line.links[0].send(byte // 50, bytes([byte]), line.now_s)
    line.run(line.now_s + 1.0)
    data = [e for e in line.events[1] if isinstance(e, Data)]
    assert [e.stream for e in data] == [0, 1]
    assert b"".join(e.payload for e in data) == bytes(range(100))


def test_bad_arguments_are_the_callers_fault() -> None:
    for options in (
        {"epoch": 0},
        {"epoch": 2**32},
        {"line_rate_bps": 10},
        {"max_payload_bytes": 20},
        {"identity": bytes(33)},
    ):
        with pytest.raises(LocalError):
            Link(**{"epoch": 1, **options})
    with pytest.raises(LocalError):
        connected_pair().links[0].send(256, b"x", 1.0)


def test_a_queue_that_is_full_takes_no_more_and_says_so() -> None:
    line = connected_pair(send_queue_bytes=1000)
    link = line.links[0]
    accepted = [link.send(0, bytes(600), line.now_s) for _ in range(8)]
    assert accepted[-1] == 0
    assert link.unacked_bytes == sum(accepted)


def test_frames_are_paced_at_the_line_rate() -> None:
    line = connected_pair()
    link = line.links[0]
    link.send(0, bytes(4000), line.now_s)
    first = link.bytes_to_send(line.now_s)
    assert len(first) < 600
    assert link.bytes_to_send(line.now_s) == b""
    assert link.wakeup_at() == pytest.approx(line.now_s + len(first) * 10 / 115200 - 0.010, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["replace", "lose"])
@pytest.mark.parametrize(("error_rate", "bar"), [(0.0, 0.94), (1e-4, 0.90), (1e-3, 0.70)])
def test_goodput_on_a_115200_line_reaches_its_bar(error_rate: float, bar: float, mode: str, seed: int) -> None:
    assert measure_goodput(error_rate=error_rate, mode=mode, seed=seed).share >= bar


def test_goodput_both_ways_at_once_loses_only_the_acknowledgements() -> None:
    assert measure_goodput(both_ways=True).share >= 0.94


def test_a_send_window_of_one_payload_fits_a_small_board() -> None:
    core = _codec.LinkCore(
        epoch=1,
        line_rate_bps=115200,
        max_payload_bytes=128,
        identity=b"",
        keepalive_us=0,
        send_window=8,
        receive_window=1,
        paced=True,
    )
    assert core.state_bytes <= 1536 + 64  # pointers here are twice as wide as the board's


def test_the_decoder_of_the_link_and_that_of_the_tools_agree() -> None:
    line = connected_pair()
    line.links[0].send(3, b"abc", line.now_s)
    frames = FrameDecoder().push(line.links[0].bytes_to_send(line.now_s))
    assert [f.payload for f in frames if isinstance(f, Frame) and f.type == FrameType.DATA] == [b"abc"]
