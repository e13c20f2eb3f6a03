"""Frames against an independent COBS encoder and zlib's CRC-32, the golden vectors, and SPEC.md's own examples."""

import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError
from firmware_bridge.frame import Ack, BadFrame, Frame, FrameDecoder, FrameStatus, FrameType, encode_frame

BRIDGE = Path(__file__).parents[2] / "firmware_bridge"
GOLDEN = BRIDGE / "csrc" / "tests" / "golden_vectors.txt"


def stuffed(raw: bytes) -> bytes:
    """COBS as Cheshire and Baker (1999) define it: whole runs at a time, unlike the encoder under test."""
    out = bytearray()
    runs = raw.split(b"\0")
    for number, run in enumerate(runs, 1):
        full = len(run) >= 254
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
        if run or not full or number < len(runs):  # a full block at the very end needs no successor
            out += bytes([len(run) + 1]) + run
    return bytes(out)


def unstuffed(data: bytes) -> bytes:
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        out += data[at + 1 : at + code]
        at += code
        if code < 0xFF and at < len(data):
            out.append(0)
    return bytes(out)


def on_the_line(frame: Frame) -> bytes:
    flags = 0x80 if frame.ack else 0
    raw = bytes([frame.type | flags]) + frame.session.to_bytes(2, "little") + bytes([frame.stream])
    raw += frame.sequence.to_bytes(2, "little")
    if frame.ack:
        raw += frame.ack.cumulative.to_bytes(2, "little") + bytes([frame.ack.sack, frame.ack.credit])
    raw += frame.payload
    return stuffed(raw + zlib.crc32(raw).to_bytes(4, "little")) + b"\0"


frames = st.builds(
    Frame,
    type=st.integers(1, 15),
    session=st.integers(0, 65535),
    stream=st.integers(0, 255),
    sequence=st.integers(0, 65535),
    payload=st.one_of(
        st.binary(max_size=256),
        st.integers(0, 256).map(lambda n: b"\x55" * n),
        st.integers(0, 256).map(lambda n: bytes(n)),
    ),
    ack=st.none() | st.builds(Ack, st.integers(0, 65535), st.integers(0, 255), st.integers(0, 255)),
)


def golden(kind: str) -> list[list[str]]:
    rows = (line.split() for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#"))
    return [row[1:] for row in rows if row[0] == kind]


def golden_frames() -> list[tuple[Frame, bytes]]:
    found = []
    for _, kind, session, stream, sequence, ack, payload, encoded in golden("frame"):
        block = None if ack == "-" else Ack(*(int(part, 0) for part in ack.split(":")))
        body = b"" if payload == "-" else bytes.fromhex(payload)
        frame = Frame(int(kind), int(session, 0), int(stream), int(sequence, 0), body, block)
        found.append((frame, bytes.fromhex(encoded)))
    return found


@pytest.mark.parametrize(("frame", "encoded"), golden_frames())
def test_a_golden_frame_is_encoded_and_decoded_as_written(frame: Frame, encoded: bytes) -> None:
    assert encode_frame(frame) == encoded == on_the_line(frame)
    assert FrameDecoder().push(encoded) == [frame]


@pytest.mark.parametrize(("frame", "encoded"), golden_frames())
def test_a_golden_frame_is_decoded_from_every_split_in_two(frame: Frame, encoded: bytes) -> None:
    for cut in range(len(encoded) + 1):
        decoder = FrameDecoder()
        assert decoder.push(encoded[:cut]) + decoder.push(encoded[cut:]) == [frame]


@pytest.mark.parametrize(("frame", "encoded"), golden_frames())
def test_a_golden_frame_with_any_bit_wrong_is_refused(frame: Frame, encoded: bytes) -> None:
    # Not those of the delimiter: 0x01 there is another way to end a full block, and the frame before it is whole.
    for bit in range(8 * (len(encoded) - 1)):
        wrong = bytearray(encoded)
        wrong[bit // 8] ^= 1 << (bit % 8)
        found = FrameDecoder().push(bytes(wrong) + b"\0")
        assert frame not in found
        assert all(isinstance(item, BadFrame) for item in found)


@pytest.mark.parametrize(("sender", "receiver", "tag"), golden("tag"))
def test_a_golden_session_tag_is_reproduced(sender: str, receiver: str, tag: str) -> None:
    assert _codec.session_tag(int(sender, 16), int(receiver, 16)) == int(tag, 16)
    crc = zlib.crc32(int(sender, 16).to_bytes(4, "little") + int(receiver, 16).to_bytes(4, "little"))
    assert (crc >> 16) ^ (crc & 0xFFFF) == int(tag, 16)


@given(frames)
def test_any_frame_matches_the_independent_encoder_and_comes_back(frame: Frame) -> None:
    encoded = encode_frame(frame)
    assert encoded == on_the_line(frame)
    assert b"\0" not in encoded[:-1]
    assert FrameDecoder().push(encoded) == [frame]


@given(st.binary(max_size=600))
def test_the_oracle_itself_undoes_what_it_does(raw: bytes) -> None:
    assert unstuffed(stuffed(raw)) == raw
    assert b"\0" not in stuffed(raw)


@given(st.binary(max_size=700), frames)
def test_a_frame_is_found_after_any_garbage_that_ends_with_a_delimiter(garbage: bytes, frame: Frame) -> None:
    assert FrameDecoder().push(garbage + b"\0" + encode_frame(frame))[-1] == frame


@given(st.binary(max_size=2000))
def test_no_garbage_upsets_the_decoder(garbage: bytes) -> None:
    for item in FrameDecoder(max_payload_bytes=64).push(garbage):
        assert isinstance(item, Frame | BadFrame)


@given(st.binary(max_size=100))
def test_the_crc_is_that_of_zlib(data: bytes) -> None:
    assert _codec.crc32(data) == zlib.crc32(data)
    assert _codec.crc32(data[30:], _codec.crc32(data[:30])) == zlib.crc32(data)


def test_a_frame_longer_than_the_buffer_is_refused_and_the_next_is_read() -> None:
    decoder = FrameDecoder(max_payload_bytes=64)
    long, short = Frame(FrameType.DATA, payload=b"x" * 200), Frame(FrameType.DATA, payload=b"y" * 64)
    assert decoder.push(encode_frame(long) + encode_frame(short)) == [BadFrame(FrameStatus.TOO_LONG), short]


def test_a_frame_that_promises_an_acknowledgement_it_lacks_is_refused() -> None:
    raw = bytes([FrameType.ACK | 0x80, 0, 0, 0, 0, 0, 1, 2])
    line = stuffed(raw + zlib.crc32(raw).to_bytes(4, "little")) + b"\0"
    assert FrameDecoder().push(line) == [BadFrame(FrameStatus.TOO_SHORT)]


def test_a_payload_or_a_field_out_of_range_is_the_callers_fault() -> None:
    for frame in (Frame(0), Frame(16), Frame(2, payload=bytes(257)), Frame(2, session=65536), Frame(2, stream=-1)):
        with pytest.raises(LocalError):
            encode_frame(frame)


def test_the_default_payload_costs_a_single_stuffing_byte() -> None:
    worst = Frame(2, 0xFFFF, 255, 0xFFFF, b"\xff" * 240, Ack(0xFFFF, 255, 255))
    assert len(encode_frame(worst)) == 254 + 1 + 1


def test_every_hex_example_of_the_specification_is_a_frame_or_a_golden_record() -> None:
    known = {encoded.hex() for _, encoded in golden_frames()} | {row[1] for row in golden("record")}
    text = (BRIDGE / "SPEC.md").read_text()
    blocks = re.findall(r"^```hex\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    examples = ["".join(re.findall(r"\b[0-9a-f]{2}\b", re.sub(r"#.*", "", block))) for block in blocks]
    assert len(examples) >= 8
    assert [example for example in examples if example not in known] == []
