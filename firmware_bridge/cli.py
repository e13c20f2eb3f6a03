"""``fedge bridge``: look at ports, watch a sensor, simulate a board, make a bad line."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from firmware_bridge.host_firmware import host_firmware_path
from firmware_bridge.line import LinkPort
from firmware_bridge.line_simulator import LineSimulator
from firmware_bridge.ports import list_ports
from firmware_bridge.sensor import SensorReader

if TYPE_CHECKING:
    from firmware_bridge.records import SensorDescription
    from firmware_bridge.sensor import Batch

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs one command; 0 if it went well. Raises FedgeError for what the ``fedge`` command tells a person."""
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedge bridge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ports = commands.add_parser("ports", help="list serial ports, those with stable names first")
    ports.set_defaults(run=_ports)

    watch = commands.add_parser("watch", help="show a sensor's values and the line's quality")
    watch.add_argument("port", metavar="PORT", help="device, pty, socket://host:port or rfc2217://host:port")
    watch.add_argument("--baud", type=int, default=115200)
    watch.add_argument("--rate", type=float, metavar="HZ", help="samples per second to ask for")
    watch.add_argument("--count", type=int, metavar="N", help="stop after so many lines")
    watch.set_defaults(run=_watch)

    simulate = commands.add_parser("simulate", help="a sensor board without hardware: replay a recording on a tty")
    simulate.add_argument("recording", metavar="RECORDING", help="CSV with columns name[unit]; see docs/serial.md")
    simulate.add_argument("--speed", type=float, default=1.0, help="times real time; 0: as fast as the line takes it")
    simulate.add_argument("--loop", action="store_true", help="begin again at the end")
    simulate.add_argument("--rate", type=float, metavar="HZ", help="samples per second, instead of the recording's")
    _add_line_options(simulate)
    simulate.set_defaults(run=_simulate)

    line = commands.add_parser("line", help="pairs of ttys joined by a paced, lossy line")
    line.add_argument("--count", type=int, default=1, help="pairs (default 1)")
    _add_line_options(line)
    line.set_defaults(run=_line)
    return parser


def _add_line_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baud", type=int, default=115200)
    parser.add_argument("--loss", type=float, default=0.0, metavar="P", help="probability that a byte is hit (0)")
    parser.add_argument("--mode", choices=("replace", "lose"), default="replace", help="fate of a byte that is hit")
    parser.add_argument("--seed", type=int, default=0)


def _open_line(options: argparse.Namespace, number: int = 0) -> LineSimulator:
    return LineSimulator(baud=options.baud, corrupt=options.loss, mode=options.mode, seed=options.seed + number)


def _stop_signal() -> threading.Event:
    """Set by SIGINT and SIGTERM from now on: ask for it before telling anybody that the command is ready."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _ports(_: argparse.Namespace) -> int:
    found = list_ports()
    for port in found:
        device = "" if port.stable_name == port.device else f"  ({port.device})"
        print(f"{port.stable_name}{device}  {port.description}")
    if not found:
        print("no serial ports; `fedge bridge simulate RECORDING` makes one with a simulated board behind it")
    return 0


def _line(options: argparse.Namespace) -> int:
    stop = _stop_signal()
    with ExitStack() as stack:
        for number in range(options.count):
            line = stack.enter_context(_open_line(options, number))
            print(f"{line.a} {line.b}", flush=True)
        stop.wait()
    return 0


def _simulate(options: argparse.Namespace) -> int:
    stop = _stop_signal()
    with _open_line(options) as line:
        command = [
            str(host_firmware_path()),
            "--tty",
            line.b,
            "--baud",
            str(options.baud),
            "--speed",
            str(options.speed),
        ]
        command += ["--loop"] if options.loop else []
        command += ["--rate", str(options.rate)] if options.rate else []
        with subprocess.Popen([*command, options.recording]) as board:
            try:
                board.wait(0.3)  # long enough for a bad recording to be refused
                return 1
            except subprocess.TimeoutExpired:
                print(line.a, flush=True)
                print(f"a simulated sensor board is on that tty; try: fedge bridge watch {line.a}", file=sys.stderr)
            try:
                stop.wait()
            finally:
                board.terminate()
    return 0


def _watch(options: argparse.Namespace) -> int:
    with LinkPort(options.port, baud=options.baud, identity=b"fedge bridge watch", keepalive_s=2.0) as port:
        sensor = SensorReader(port)
        description = sensor.describe(timeout_s=10.0)
        if options.rate:
            sensor.set_rate(options.rate)
            description = sensor.describe()
        peer = (port.peer_identity or b"").decode("utf-8", "replace")
        print(f"# {description.sensor} on {options.port} ({peer}), {description.rate_hz:g} samples/s")
        print("# " + "  ".join(f"{channel.name}[{channel.unit}]" for channel in description.channels))
        sensor.start()
        for number, batch in enumerate(sensor.batches(), 1):
            print(_values_line(description, batch, port, sensor), flush=True)
            if number == options.count:
                break
        else:
            print(f"# the recording is over; the board dropped {sensor.dropped_samples} samples")
    return 0


def _values_line(description: SensorDescription, batch: Batch, port: LinkPort, sensor: SensorReader) -> str:
    stats = port.stats
    last = batch.values[-1]
    values = "  ".join(f"{c.name}={v:.5g} {c.unit}" for c, v in zip(description.channels, last, strict=True))
    last_s = batch.first_us * 1e-6 + (len(batch.values) - 1) / description.rate_hz
    return f"{last_s:10.3f} s  {values}  | dropped {sensor.dropped_samples}, bad frames {stats.frames_bad}"
