"""Sensor records, the reader, and the host firmware end to end over a pty."""

import math
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import _codec
from firmware_bridge.cli import main
from firmware_bridge.errors import DeviceFault, FedgeError, LocalError
from firmware_bridge.host_firmware import host_firmware_path
from firmware_bridge.line import LinkPort, PeerResetError
from firmware_bridge.line_simulator import LineSimulator
from firmware_bridge.records import (
    SENSOR_STREAM,
    BadRecord,
    Channel,
    Command,
    RecordDecoder,
    Samples,
    SampleType,
    SensorDescription,
    encode_command,
    encode_description,
    encode_samples,
)
from firmware_bridge.sensor import SensorReader, SensorSilent

GOLDEN = Path(__file__).parents[2] / "firmware_bridge" / "csrc" / "tests" / "golden_vectors.txt"
BAUD = 1_000_000


def golden_record(name: str) -> bytes:
    rows = (line.split() for line in GOLDEN.read_text().splitlines())
    return next(bytes.fromhex(row[2]) for row in rows if row[:2] == ["record", name])


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<H", len(body)) + body


# ---- records ---------------------------------------------------------------------------------------------------------


def test_the_golden_description_is_read_and_written() -> None:
    imu = SensorDescription(
        "imu", (Channel("ax", "m/s2", 0.5), Channel("t", "Cel", 0.0625, -40.0)), SampleType.INT16, 100.0
    )
    assert RecordDecoder().push(golden_record("describe")) == [imu]
    assert encode_description(imu) == golden_record("describe")


@pytest.mark.parametrize(
    ("name", "first_us", "sequence", "dropped", "raw"),
    [
        ("samples", 1_500_000, 20, 0, np.array([[-2, 960], [3, 961]], "<i2")),
        ("samples-int32", 0x0102030405060708, 0xFFFFFFF0, 7, np.array([[-123456789]], "<i4")),
    ],
)
def test_golden_samples_are_read_and_written(name, first_us, sequence, dropped, raw) -> None:
    (samples,) = RecordDecoder().push(golden_record(name))
    assert (samples.first_us, samples.sequence, samples.dropped) == (first_us, sequence, dropped)
    np.testing.assert_array_equal(samples.raw, raw, strict=True)
    assert encode_samples(Samples(first_us, sequence, dropped, raw)) == golden_record(name)


def test_golden_commands_are_written() -> None:
    assert encode_command(Command.ASK, id=0) == golden_record("ask")
    assert encode_command(Command.START, id=1) == golden_record("start")
    assert encode_command(Command.STOP, id=3) == golden_record("stop")
    assert encode_command(Command.SET_RATE, id=4, rate_hz=50.0) == golden_record("set-rate")
    assert encode_command(Command.ASK_TIME, id=2) == golden_record("ask-time")


def test_records_are_found_at_every_split() -> None:
    stream = golden_record("describe") + golden_record("result") + golden_record("end")
    for cut in range(len(stream) + 1):
        decoder = RecordDecoder()
        assert len(decoder.push(stream[:cut]) + decoder.push(stream[cut:])) == 3


def bent(name: str, at: int, new: bytes) -> bytes:
    whole = golden_record(name)
    return whole[:at] + new + whole[at + len(new) :]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bent("describe", 20, struct.pack("<f", math.nan)), id="offset NaN"),
        pytest.param(bent("describe", 13, struct.pack("<f", math.nan)), id="scale NaN"),
        pytest.param(bent("describe", 13, struct.pack("<f", math.inf)), id="scale infinite"),
        pytest.param(bent("describe", 13, struct.pack("<f", -0.0)), id="scale zero"),
        pytest.param(bent("describe", 4, b"\0"), id="no channels"),
        pytest.param(bent("describe", 4, b"\x21"), id="33 channels"),
        pytest.param(bent("describe", 3, b"\3"), id="unknown sample type"),
        pytest.param(bent("describe", 5, bytes(4)), id="rate zero"),
        pytest.param(bent("describe", 9, b"\xff"), id="name longer than the record"),
        pytest.param(bent("describe", 10, b"\x1b[m"), id="escape sequence in a name"),
        pytest.param(bent("describe", 10, b"\xff"), id="name not UTF-8"),
        pytest.param(bent("samples", 19, b"\xff\xff"), id="65535 samples in 8 bytes"),
        pytest.param(bent("samples", 19, bytes(2)), id="no samples"),
        pytest.param(bent("samples", 21, b"\xff"), id="255 channels"),
        pytest.param(bent("samples", 23, b"\1"), id="reserved bytes set"),
        pytest.param(b"\x02\xff\xff", id="65535 bytes declared"),
        pytest.param(b"\xff\xff\xff\xff" * 9, id="4 GiB declared"),
        pytest.param(record(99, b""), id="unknown type"),
        pytest.param(record(3, b"\1\2\x09"), id="unknown outcome"),
        pytest.param(record(4, bytes(8)), id="time too short"),
        pytest.param(record(5, bytes(5)), id="end too long"),
        pytest.param(record(2, b""), id="samples without a head"),
    ],
)
def test_a_record_that_breaks_a_rule_is_the_boards_fault(data: bytes) -> None:
    with pytest.raises(BadRecord):
        RecordDecoder().push(data)


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_raise_bad_record(data: bytes) -> None:
    decoder = RecordDecoder()
    with suppress(BadRecord):
        for at in range(0, len(data), 7):
            decoder.push(data[at : at + 7])


@given(st.sampled_from(["describe", "samples", "samples-int32"]), st.integers(3, 60), st.integers(0, 255))
def test_no_changed_byte_in_a_record_does_more_than_raise_bad_record(name: str, at: int, byte: int) -> None:
    with suppress(BadRecord):
        RecordDecoder().push(bent(name, min(at, len(golden_record(name)) - 1), bytes([byte])))


@given(st.binary(max_size=60), st.sampled_from([_codec.read_describe, _codec.read_samples, _codec.read_result]))
def test_the_readers_take_any_body(body: bytes, read) -> None:
    read(body)


def test_what_cannot_be_said_in_a_record_is_the_callers_fault() -> None:
    good = Channel("x", "1", 1.0)
    for channels in (
        (),
        (good,) * 33,
        (Channel("", "1", 1.0),),
        (Channel("x", "1", math.nan),),
        (Channel("x" * 300, "", 1.0),),
    ):
        with pytest.raises(LocalError):
            encode_description(SensorDescription("s", channels, SampleType.INT16, 1.0))
    with pytest.raises(LocalError):
        encode_samples(Samples(0, 0, 0, np.zeros((2, 2))))
    with pytest.raises(LocalError):
        encode_samples(Samples(0, 0, 0, np.zeros((2000, 2), np.int16)))
    with pytest.raises(LocalError):
        encode_command(Command.SET_RATE, id=0, rate_hz=math.nan)


# ---- the host firmware, end to end -----------------------------------------------------------------------------------


def write_recording(path: Path, rows: int = 600, rate_hz: float = 200.0) -> np.ndarray:
    """Integers (rows, 3) that the CSV holds as ax = 0.001 n m/s2, t = 0.01 n Cel, n."""
    n = np.arange(rows)
    raw = np.stack([np.round(9810 * np.sin(n / 20)), 2000 + n % 700, n], axis=1).astype(np.int16)
    lines = ["# sensor: imu", f"# rate_hz: {rate_hz}", "ax[m/s2]*0.001,t[Cel]*0.01,n[1]"]
    lines += [f"{x / 1000:.3f},{t / 100:.2f},{k}" for x, t, k in raw.tolist()]
    path.write_text("\n".join(lines) + "\n")
    return raw


@contextmanager
def board(line: LineSimulator, recording: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [host_firmware_path(), "--tty", line.b, "--baud", str(BAUD), *options, recording]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_recording_is_replayed_exactly_over_a_lossy_line(tmp_path: Path) -> None:
    raw = write_recording(tmp_path / "imu.csv")
    with (
        LineSimulator(baud=BAUD, corrupt=1e-4) as line,
        board(line, tmp_path / "imu.csv", "--speed", "0"),
        LinkPort(line.a, baud=BAUD) as port,
    ):
        sensor = SensorReader(port)
        description = sensor.describe()
        assert description.sensor == "imu"
        assert [(c.name, c.unit) for c in description.channels] == [("ax", "m/s2"), ("t", "Cel"), ("n", "1")]
        assert description.rate_hz == 200.0
        sensor.start()
        batches = list(sensor.batches())
    np.testing.assert_array_equal(np.concatenate([b.raw for b in batches]), raw)
    np.testing.assert_allclose(np.concatenate([b.values for b in batches]), raw * [0.001, 0.01, 1.0], rtol=1e-6)
    times_s = np.concatenate([b.times_s for b in batches])
    np.testing.assert_allclose(np.diff(times_s), 1 / 200, atol=2e-6)
    assert sum(b.missed for b in batches) == sensor.dropped_samples == 0


def test_host_times_follow_the_boards_clock(tmp_path: Path) -> None:
    write_recording(tmp_path / "imu.csv", rows=100)
    with LineSimulator(baud=BAUD) as line, board(line, tmp_path / "imu.csv"), LinkPort(line.a, baud=BAUD) as port:
        sensor = SensorReader(port)
        assert sensor.synchronize().error_s < 0.05
        started_s = time.time()
        sensor.start()
        first = next(sensor.batches())
        assert first.times_s[0] == pytest.approx(started_s, abs=0.1)


def test_the_rate_is_set_and_a_refusal_is_named(tmp_path: Path) -> None:
    write_recording(tmp_path / "imu.csv", rows=2000)
    with LineSimulator(baud=BAUD) as line, board(line, tmp_path / "imu.csv"), LinkPort(line.a, baud=BAUD) as port:
        sensor = SensorReader(port)
        sensor.set_rate(500.0)
        assert sensor.describe().rate_hz == 500.0
        with pytest.raises(LocalError, match="OUT_OF_RANGE"):
            sensor.set_rate(0.0)
        sensor.start()
        with pytest.raises(LocalError, match="NOT_NOW"):
            sensor.set_rate(100.0)
        sensor.stop()
        sensor.set_rate(100.0)


def test_a_line_too_slow_for_the_sensor_drops_samples_and_counts_them(tmp_path: Path) -> None:
    raw = write_recording(tmp_path / "imu.csv", rows=6000, rate_hz=1000.0)
    with (
        LineSimulator(baud=19200) as line,
        subprocess.Popen(
            [host_firmware_path(), "--tty", line.b, "--baud", "19200", "--speed", "3", tmp_path / "imu.csv"]
        ) as process,
        LinkPort(line.a, baud=19200) as port,
    ):
        sensor = SensorReader(port)
        sensor.start()
        batches = list(sensor.batches())
        process.kill()
    assert sensor.dropped_samples > 0
    got = sum(len(b.raw) for b in batches)
    assert got + sensor.dropped_samples == len(raw)
    for batch in batches:
        np.testing.assert_array_equal(batch.raw, raw[batch.sequence : batch.sequence + len(batch.raw)])
    assert sum(b.missed for b in batches) + (len(raw) - batches[-1].sequence - len(batches[-1].raw)) == len(raw) - got


def test_a_board_that_restarts_is_begun_anew(tmp_path: Path) -> None:
    write_recording(tmp_path / "imu.csv", rows=2000)
    with LineSimulator(baud=BAUD) as line, LinkPort(line.a, baud=BAUD) as port:
        sensor = SensorReader(port)
        with board(line, tmp_path / "imu.csv"):
            sensor.start()
            next(sensor.batches())
        with board(line, tmp_path / "imu.csv"):
            with pytest.raises(PeerResetError):
                for _ in sensor.batches():
                    pass
            sensor.describe()
            sensor.start()
            assert next(sensor.batches()).sequence == 0


def test_a_board_that_talks_nonsense_or_nothing_is_named(tmp_path: Path) -> None:
    with LineSimulator(baud=BAUD) as line, LinkPort(line.a, baud=BAUD) as port, LinkPort(line.b, baud=BAUD) as liar:
        with pytest.raises(SensorSilent, match="did not send its description"):
            SensorReader(port).describe(timeout_s=0.3)
        liar.write(SENSOR_STREAM, b"Hello, I am a modem\r\n" * 3, 5)
        with pytest.raises(BadRecord):
            SensorReader(port).describe(timeout_s=2.0)
        liar.flush(2.0)
        reader = SensorReader(port)
        liar.write(SENSOR_STREAM, golden_record("describe") + golden_record("samples-int32"), 5)
        reader.describe(timeout_s=2.0)
        with pytest.raises(BadRecord, match="the description promised"):
            next(reader.batches(timeout_s=2.0))
    with LineSimulator() as line, LinkPort(line.a) as port, pytest.raises(SensorSilent, match="is it flashed"):
        SensorReader(port).describe(timeout_s=0.2)


def test_the_firmware_derives_scales_and_rate_and_speaks_over_pipes(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("time[s],x[V],k[1]\n0.0,-1.5,7\n0.5,3.0,-9\n1.0,0.25,100\n")
    from firmware_bridge.link import Data, Link

    with subprocess.Popen(
        [host_firmware_path(), "--speed", "0", tmp_path / "r.csv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        link, decoder = Link(epoch=9, now_s=time.monotonic()), RecordDecoder()
        records = []
        asked = False
        deadline_s = time.monotonic() + 10
        while len(records) < 4 and time.monotonic() < deadline_s:
            process.stdin.write(link.bytes_to_send(time.monotonic()))
            process.stdin.flush()
            for event in link.receive(process.stdout.read1(4096), time.monotonic()):
                records += decoder.push(event.payload) if isinstance(event, Data) else []
            if link.connected and not asked:
                asked = True
                commands = encode_command(Command.ASK, id=0) + encode_command(Command.START, id=1)
                link.send(SENSOR_STREAM, commands, time.monotonic())
        process.stdin.close()
        assert process.wait(5) == 0
    description = next(r for r in records if isinstance(r, SensorDescription))
    samples = next(r for r in records if isinstance(r, Samples))
    assert description.rate_hz == 2.0
    assert [c.scale for c in description.channels] == [pytest.approx(3.0 / 32767), 1.0]
    np.testing.assert_array_equal(samples.raw, [[-16384, 7], [32767, -9], [2731, 100]])


@pytest.mark.parametrize(
    "text", ["", "x[1]\n1\n", "# rate_hz: 5\nx\n1\n", "# rate_hz: 5\nx[1],y[1]\n1\n", "# rate_hz: 5\nx[1]\nnan\n"]
)
def test_a_bad_recording_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    run = subprocess.run([host_firmware_path(), tmp_path / "bad.csv"], capture_output=True, text=True, timeout=5)
    assert run.returncode == 1
    assert "bad.csv:" in run.stderr


# ---- the command line ------------------------------------------------------------------------------------------------


def test_watch_shows_values_units_and_the_lines_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recording(tmp_path / "imu.csv", rows=4000)
    with LineSimulator(baud=BAUD) as line, board(line, tmp_path / "imu.csv"):
        assert main(["watch", line.a, "--baud", str(BAUD), "--count", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("# imu on ")
    assert shown[1] == "# ax[m/s2]  t[Cel]  n[1]"
    assert len(shown) == 4
    assert "Cel" in shown[3]
    assert "bad frames 0" in shown[3]


def test_simulate_prints_a_tty_with_a_board_behind_it(tmp_path: Path) -> None:
    write_recording(tmp_path / "imu.csv", rows=50)
    command = [
        sys.executable,
        "-m",
        "edge_runtime.main",
        "bridge",
        "simulate",
        str(tmp_path / "imu.csv"),
        "--baud",
        str(BAUD),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        tty = process.stdout.readline().strip()
        with LinkPort(tty, baud=BAUD) as port:
            assert SensorReader(port).describe().sensor == "imu"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert not Path(tty).exists()


def test_line_prints_a_pair_of_ttys_for_each_count() -> None:
    command = [sys.executable, "-m", "edge_runtime.main", "bridge", "line", "--count", "2", "--loss", "1e-4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pairs = [process.stdout.readline().split() for _ in range(2)]
        assert all(Path(tty).exists() for pair in pairs for tty in pair)
        process.terminate()
        assert process.wait(5) == 0


def test_the_command_line_says_whose_fault_an_error_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ports"]) == 0
    with pytest.raises(DeviceFault, match="no such port"):
        main(["watch", "/dev/serial/by-id/none"])
    assert issubclass(SensorSilent, FedgeError)
