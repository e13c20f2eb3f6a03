"""LinkPort and LineSimulator on real pseudo-terminals, with real time."""

import os
import random
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from firmware_bridge.errors import LocalError
from firmware_bridge.line import LineLost, LineRestored, LinkPort, PeerResetError
from firmware_bridge.line_simulator import LineSimulator
from firmware_bridge.link import Link
from firmware_bridge.ports import PortNotReady, list_ports, open_port

FAST = 1_000_000


def receive(port: LinkPort, stream: int, size: int, timeout_s: float = 20.0) -> bytes:
    got = bytearray()
    deadline_s = time.monotonic() + timeout_s
    while len(got) < size:
        data = port.read(stream, deadline_s - time.monotonic())
        if not data:
            break
        got += data
    return bytes(got)


def in_background(function, *arguments) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def test_bytes_cross_a_lossy_line_both_ways_at_once() -> None:
    here, there = random.Random(1).randbytes(30_000), random.Random(2).randbytes(30_000)
    with (
        LineSimulator(baud=FAST, corrupt=1e-4, seed=3) as line,
        LinkPort(line.a, baud=FAST, identity=b"a") as a,
        LinkPort(line.b, baud=FAST, identity=b"b") as b,
    ):
        assert a.wait_up(5)
        assert b.wait_up(5)
        assert (a.peer_identity, b.peer_identity) == (b"b", b"a")
        writers = [in_background(a.write, 1, here, 20), in_background(b.write, 2, there, 20)]
        assert receive(b, 1, len(here)) == here
        assert receive(a, 2, len(there)) == there
        for writer in writers:
            writer.join()
        assert a.flush(5)


def test_a_transfer_survives_an_unplug_of_five_seconds() -> None:
    data = random.Random(4).randbytes(40_000)
    with LineSimulator(baud=FAST) as line, LinkPort(line.a, baud=FAST) as a, LinkPort(line.b, baud=FAST) as b:
        assert a.wait_up(5)
        in_background(a.write, 1, data, 30)
        first = receive(b, 1, 5_000)
        line.unplug()
        time.sleep(5.0)
        line.plug()
        assert first + receive(b, 1, len(data) - len(first)) == data
        assert a.connected


def test_a_port_that_vanishes_and_comes_back_goes_on_with_the_same_session() -> None:
    data = random.Random(5).randbytes(30_000)
    events = []
    with (
        LineSimulator(baud=FAST) as line,
        LinkPort(line.a, baud=FAST, on_event=events.append) as a,
        LinkPort(line.b, baud=FAST) as b,
    ):
        assert a.wait_up(5)
        in_background(a.write, 1, data, 30)
        first = receive(b, 1, 4_000)
        line.unplug(vanish=True)
        time.sleep(0.6)
        assert not a.plugged
        line.plug()
        assert first + receive(b, 1, len(data) - len(first)) == data
    assert [type(event) for event in events].count(LineLost) == 1
    assert [type(event) for event in events].count(LineRestored) == 1


def test_a_restarted_peer_is_told_once_a_stream_after_the_last_bytes_of_its_session() -> None:
    with LineSimulator(baud=FAST) as line, LinkPort(line.a, baud=FAST) as a:
        with LinkPort(line.b, baud=FAST) as b:
            assert b.write(1, b"one", 5) == 3
            assert b.write(2, b"two", 5) == 3
            assert b.flush(5)
        time.sleep(0.05)
        with LinkPort(line.b, baud=FAST) as b:
            assert b.wait_up(5)
            assert b.write(1, b"again", 5) == 5
            assert b.flush(5)
            assert a.read(1, 5) == b"one"
            with pytest.raises(PeerResetError, match="restarted"):
                a.read(1, 5)
            assert a.read(1, 5) == b"again"
            with pytest.raises(PeerResetError):
                a.write(2, b"?", 5)  # and what was left unread of the old session is gone
            assert a.write(2, b"!", 5) == 1
            assert b.read(2, 5) == b"!"
            assert a.read(2, 0.05) == b""


def test_modem_managers_noise_does_no_harm() -> None:
    """Somebody writes AT commands into the line at b's end, between and inside our frames."""
    with LineSimulator(baud=FAST) as line, LinkPort(line.a, baud=FAST) as a, LinkPort(line.b, baud=FAST) as b:
        assert a.wait_up(5)
        noise = os.open(line.b, os.O_WRONLY | os.O_NOCTTY) if os.geteuid() == 0 else None
        data = random.Random(6).randbytes(20_000)
        in_background(b.write, 1, data, 20)
        for _ in range(20):
            if noise is not None:
                os.write(noise, b"AT\r\n")
            time.sleep(0.01)
        assert receive(a, 1, len(data)) == data
        if noise is not None:
            os.close(noise)
            assert a.stats.frames_bad > 0


def test_a_second_opener_is_told_that_the_line_is_taken() -> None:
    with LineSimulator() as line, LinkPort(line.a):
        with pytest.raises(LocalError, match="in use by"):
            LinkPort(line.a)
        with pytest.raises(LocalError, match="in use by"):
            open_port(str(Path(line.a).resolve()))


def test_a_closed_port_is_free_for_the_next() -> None:
    with LineSimulator() as line:
        for _ in range(2):
            port = LinkPort(line.a)
            port.close()
            port.close()
            with pytest.raises(LocalError, match="closed"):
                port.read(0, 0.0)


def test_a_missing_port_is_named_or_waited_for() -> None:
    with pytest.raises(PortNotReady, match="no such port"):
        LinkPort("/dev/serial/by-id/usb-nothing-there")
    with LineSimulator(baud=FAST) as line, LinkPort(line.b, baud=FAST):
        line.unplug(vanish=True)
        with LinkPort(line.a, baud=FAST, wait_for_port=True) as port:
            assert not port.wait_up(0.2)
            line.plug()
            assert port.wait_up(5)


def test_what_is_no_serial_port_is_refused_in_words(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("x")
    with pytest.raises(LocalError, match="not a serial port"):
        open_port(str(plain))
    with pytest.raises(LocalError, match="not an address"):
        open_port("socket://nowhere")


def test_a_slow_reader_stops_the_writer_and_loses_nothing() -> None:
    data = random.Random(7).randbytes(60_000)
    with (
        LineSimulator(baud=4 * FAST) as line,
        LinkPort(line.a, baud=FAST) as a,
        LinkPort(line.b, baud=FAST, receive_buffer_bytes=2_000) as b,
    ):
        assert a.wait_up(5)
        written = a.write(1, data, 0.7)
        assert written < 30_000
        in_background(a.write, 1, data[written:], 30)
        assert receive(b, 1, len(data)) == data


def test_read_and_wait_time_out_and_an_idle_port_uses_no_cpu() -> None:
    with LineSimulator() as line, LinkPort(line.a) as a:
        assert not a.wait_up(0.05)
        assert a.write(1, b"x", 0.05) == 0
        with LinkPort(line.b):
            assert a.wait_up(5)
            before = time.process_time()
            assert a.read(1, 1.0) == b""
            assert time.process_time() - before < 0.05


def test_a_tcp_socket_serves_as_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = Link(epoch=5, line_rate_bps=FAST, now_s=time.monotonic())
        with LinkPort(f"socket://127.0.0.1:{server.getsockname()[1]}", baud=FAST) as port:
            peer, _ = server.accept()
            with peer:
                echoed = in_background(echo, peer, far)
                assert port.write(1, b"ping" * 500, 5) == 2000
                assert receive(port, 1, 2000, 5) == b"ping" * 500
                peer.shutdown(socket.SHUT_RDWR)
                echoed.join(5)


def echo(peer: socket.socket, link: Link) -> None:
    """The far end by hand: sends back what arrives, until the other side hangs up, however it does."""
    with suppress(ConnectionError):
        answer(peer, link)


def answer(peer: socket.socket, link: Link) -> None:
    while True:
        if data := link.bytes_to_send(time.monotonic()):
            peer.sendall(data)
        readable, _, _ = select.select([peer], [], [], 0.005)
        if readable:
            data = peer.recv(4096)
            if not data:
                return
            for event in link.receive(data, time.monotonic()):
                if hasattr(event, "payload"):
                    link.send(1, event.payload, time.monotonic())


@pytest.mark.parametrize("baud", [19_200, 115_200])
def test_the_simulated_line_keeps_its_pace_in_both_directions(baud: int) -> None:
    size = baud // 10  # one second's worth
    with LineSimulator(baud=baud) as line:
        ends = [os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK) for path in (line.a, line.b)]
        seconds = [0.0, 0.0]

        def send(fd: int) -> None:
            left = size
            while left:
                try:
                    left -= os.write(fd, bytes(min(left, 512)))
                except BlockingIOError:
                    time.sleep(0.005)

        def time_arrivals(which: int, start_s: float) -> None:
            left = size
            while left:
                select.select([ends[which]], [], [], 5)
                left -= len(os.read(ends[which], 4096))
            seconds[which] = time.monotonic() - start_s

        now_s = time.monotonic()
        threads = [in_background(send, fd) for fd in ends]
        threads += [in_background(time_arrivals, which, now_s) for which in (0, 1)]
        for thread in threads:
            thread.join(10)
        for fd in ends:
            os.close(fd)
    assert seconds == [pytest.approx(1.0, rel=0.1)] * 2


def test_the_same_seed_spoils_the_same_bytes() -> None:
    def through(seed: int) -> bytes:
        with LineSimulator(baud=FAST, corrupt=0.02, seed=seed) as line:
            a, b = (os.open(path, os.O_RDWR | os.O_NOCTTY) for path in (line.a, line.b))
            os.write(a, bytes(2000))
            got = b""
            while len(got) < 2000 and select.select([b], [], [], 2)[0]:
                got += os.read(b, 4096)
            os.close(a)
            os.close(b)
            return got

    assert through(1) == through(1) != through(2)
    assert 10 <= 2000 - through(1).count(0) <= 90


def test_ports_are_listed_without_failing_on_a_machine_that_has_none() -> None:
    assert all(port.stable_name and port.device for port in list_ports())


def test_line_options_out_of_range_are_the_callers_fault() -> None:
    for options in ({"corrupt": 1.5}, {"baud": 1}, {"mode": "chew"}):
        with pytest.raises(LocalError):
            LineSimulator(**options)
