"""``fedge demo``: a whole fleet on this machine, learning from real recordings.

A coordinator, twenty devices, two serial lines and a live sensor.

Every part is a process of its own, started with the command a user would type; this module only lays out files,
starts them, and compares at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console

from coordinator import demo_data, own_data
from coordinator.comparison import compare
from coordinator.export import export_model
from coordinator.fleet import Fleet, Member, write_csv, write_recording
from coordinator.report import write_report
from coordinator.run_history import latest_run
from coordinator.view import comparison_table, devices_table
from edge_runtime.durable import make_directory
from edge_runtime.errors import DeviceFault, LocalError
from edge_runtime.tables import to_toml

_SERIAL_DEVICES = 2
_LOSS = "0.0001"
_SENSOR_SPEED = "25"  # times real time: two minutes of recording in five seconds
_PATIENCE_S = 120.0
_FEDGE = (sys.executable, "-m", "edge_runtime.main")
_MARK = ".fedge-demo"


def main(argv: list[str]) -> int:
    """Run ``fedge demo ARGV``."""
    arguments = _parser().parse_args(argv)
    console = Console()
    fleet = _fleet(arguments)
    folder = _fresh_folder(arguments.output)
    _introduce(console, fleet, folder)
    started_s = time.perf_counter()
    with _Processes(folder / "logs") as processes:
        _run_fleet(console, processes, fleet, folder, arguments.port or _free_port())
    return _conclude(console, fleet, folder, time.perf_counter() - started_s)


def _fleet(arguments: argparse.Namespace) -> Fleet:
    if not (1 <= arguments.rounds <= 1000 and 0.01 <= arguments.epsilon <= 1000):
        raise LocalError("--rounds is 1 to 1000, --epsilon 0.01 to 1000")
    common = {
        "rounds": arguments.rounds,
        "epsilon": arguments.epsilon,
        "place": arguments.noise,
        "hidden": arguments.hidden,
        "serial_devices": _SERIAL_DEVICES,
    }
    if not arguments.data:
        return demo_data.fleet(**common)
    return own_data.fleet(
        Path(arguments.data),
        label=arguments.label,
        device_column=arguments.device_column,
        devices=arguments.devices,
        **common,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedge demo", description=__doc__.splitlines()[0].removeprefix("``fedge demo``: ")
    )
    parser.add_argument(
        "--noise",
        choices=("central", "local", "none"),
        default="central",
        help="who adds the Laplace noise: the coordinator to the sum, each device to its update, nobody (%(default)s)",
    )
    parser.add_argument("--epsilon", type=float, default=8.0, help="what each device spends in all (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument(
        "--hidden", type=int, default=0, metavar="UNITS", help="a hidden layer: more parameters, more noise"
    )
    parser.add_argument("--data", metavar="FILE", help="your own CSV or NPZ file instead of the recordings")
    parser.add_argument("--label", help="its label column (the last one)")
    parser.add_argument(
        "--device-column", metavar="COLUMN", help="the column that says whose row it is (else shared out, skewed)"
    )
    parser.add_argument("--devices", type=int, default=12, help="how many devices share your own data (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port on loopback (any free one)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-output"), help="folder for everything (%(default)s)"
    )
    return parser


class _Processes:
    """The demonstration's processes; whatever is still running at the end is stopped, by its id and no other's."""

    def __init__(self, logs: Path) -> None:
        self._logs = make_directory(logs)
        self._running: list[tuple[str, subprocess.Popen[str]]] = []

    def __enter__(self) -> _Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in self._running:
            if process.poll() is None:
                process.terminate()
        for _, process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, name: str, *arguments: str, show: bool = False, read: bool = False) -> subprocess.Popen[str]:
        """``fedge ARGUMENTS``; its output into the terminal (``show``), into a pipe to read (``read``), else
        into logs/NAME.log.
        """
        with (self._logs / f"{name}.log").open("w") as log:
            output = None if show else subprocess.PIPE if read else log
            process = subprocess.Popen(
                [*_FEDGE, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=None if show else log, text=True
            )
        self._running.append((name, process))
        return process

    def run(self, name: str, *arguments: str) -> str:
        """Run to the end and return its output."""
        process = self.start(name, *arguments, read=True)
        output, _ = process.communicate(timeout=_PATIENCE_S)
        if process.returncode:
            raise DeviceFault(f"fedge {' '.join(arguments)} failed: {self.log(name)}")
        return output

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text().strip()[-400:]


def _run_fleet(console: Console, processes: _Processes, fleet: Fleet, folder: Path, port: int) -> None:
    home, address = folder / "coordinator", f"127.0.0.1:{port}"
    (folder / "task.toml").write_text(to_toml(fleet.task))
    write_csv(folder / "test.csv", fleet.test, fleet.task)
    lines = _open_lines(processes, sum(member.link == "serial" for member in fleet.members))
    serial = [argument for near, _ in lines for argument in ("--serial", near)]
    _say(console, "fedge", "coordinator", "init", "--listen", address, "--task", str(folder / "task.toml"))
    processes.run(
        "init",
        "coordinator",
        "init",
        "--home",
        str(home),
        "--listen",
        address,
        "--task",
        str(folder / "task.toml"),
        *serial,
    )
    _say(console, "fedge", "coordinator", "invite", "--count", str(len(fleet.members)))
    codes = processes.run(
        "invite", "coordinator", "invite", "--home", str(home), "--count", str(len(fleet.members))
    ).split()
    _say(console, "fedge", "coordinator", "run", "--evaluate", str(folder / "test.csv"))
    coordinator = processes.start(
        "coordinator", "coordinator", "run", "--home", str(home), "--evaluate", str(folder / "test.csv"), show=True
    )
    _wait_for_port(port, coordinator, processes)
    homes = _join_all(processes, fleet, folder, codes, [far for _, far in lines])
    devices = [processes.start(name, "device", "run", "--home", str(path), "-v") for name, path in homes]
    if coordinator.wait() != 0:
        raise DeviceFault(f"the coordinator did not finish; its and the devices' logs are in {folder / 'logs'}")
    for process in devices:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _open_lines(processes: _Processes, count: int) -> list[tuple[str, str]]:
    """Pairs of ttys, each joined by a line of 115200 baud that hits one byte in ten thousand."""
    if count == 0:
        return []
    process = processes.start("lines", "bridge", "line", "--count", str(count), "--loss", _LOSS, read=True)
    assert process.stdout is not None
    pairs = [process.stdout.readline().split() for _ in range(count)]
    if any(len(pair) != 2 for pair in pairs):
        raise DeviceFault(f"no serial lines could be made: {processes.log('lines')}")
    return [(near, far) for near, far in pairs]


def _join_all(
    processes: _Processes, fleet: Fleet, folder: Path, codes: list[str], far_ends: list[str]
) -> list[tuple[str, Path]]:
    """Enrol every member, all at once; names and homes, the live sensor's first so that it has data when the
    others come.
    """
    joining, homes, lines = [], [], iter(far_ends)
    for member, code in zip(fleet.members, codes, strict=True):
        home = make_directory(folder / "devices" / member.name)
        arguments = ["device", "join", code, "--home", str(home), "--name", member.name, "--budget", str(fleet.budget)]
        arguments += ["--data", _lay_out(processes, member, fleet, home)]
        if member.link == "serial":
            arguments += ["--link", f"serial:{next(lines)}"]
        if fleet.task.privacy.place == "none":
            arguments.append("--allow-unprotected")
        joining.append((member.name, processes.start(f"{member.name}-join", *arguments)))
        homes.append((member, home))
    for name, process in joining:
        if process.wait(_PATIENCE_S) != 0:
            raise DeviceFault(f"{name} could not join: {processes.log(f'{name}-join')}")
    return [(member.name, home) for member, home in sorted(homes, key=lambda pair: not pair[0].live)]


def _lay_out(processes: _Processes, member: Member, fleet: Fleet, home: Path) -> str:
    """Put the member's data where its owner would have it; what to call it on the command line."""
    if not member.live:
        write_csv(home / "data.csv", member.table, fleet.task)
        return str(home / "data.csv")
    recording = home / "recording.csv"
    write_recording(
        recording, member.table, fleet.task, rate_hz=demo_data.RATE_HZ, units=demo_data.UNITS, sensor=member.name
    )
    board = processes.start(
        "sensor", "bridge", "simulate", str(recording), "--speed", _SENSOR_SPEED, "--loss", _LOSS, read=True
    )
    assert board.stdout is not None
    tty = board.stdout.readline().strip()
    if not tty:
        raise DeviceFault(f"the sensor firmware did not start: {processes.log('sensor')}")
    return f"sensor:{tty}"


def _wait_for_port(port: int, process: subprocess.Popen[str], processes: _Processes) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise DeviceFault("the coordinator ended before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise DeviceFault(f"the coordinator does not listen on port {port}")


def _introduce(console: Console, fleet: Fleet, folder: Path) -> None:
    console.print(
        f"[bold]{fleet.task.name}[/]: {len(fleet.members)} devices, {fleet.task.model.parameter_count} parameters"
    )
    for paragraph in fleet.story:
        console.print(paragraph, markup=False, highlight=False)
    serial = sum(member.link == "serial" for member in fleet.members)
    live = sum(member.live for member in fleet.members)
    console.print(
        f"{len(fleet.members) - serial} over TCP with mutual TLS, {serial} over serial lines "
        "(115200 baud, 1 byte in 10,000 hit), "
        f"{live} with a live sensor behind another such line; everything in {folder}/",
        highlight=False,
    )


def _say(console: Console, *command: str) -> None:
    console.print(f"$ {' '.join(command)}", style="dim", markup=False, highlight=False)


def _conclude(console: Console, fleet: Fleet, folder: Path, took_s: float) -> int:
    history, params = latest_run(folder / "coordinator")
    console.print(devices_table(history, rows=len(history.devices)))
    rows = compare(fleet.task, [member.table for member in fleet.members], fleet.test, params, history)
    comparison_table(rows, console)
    files = export_model(folder / "model", fleet.task, params).files
    report = write_report(folder, history, rows, model_files=files)
    rounds_s = sum(record.closed_at_s - record.opened_at_s for record in history.rounds)
    console.print(
        f"{history.committed} rounds in {rounds_s:.1f} s, {took_s:.1f} s with enrolment and start; "
        f"model: {', '.join(path.name for path in files)}",
        highlight=False,
    )
    console.print(f"report: {report}", style="bold", highlight=False)
    first = min((folder / "devices").iterdir())
    program = Path(sys.executable).with_name("fedge")
    shown = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    home = first.relative_to(Path.cwd()) if first.is_relative_to(Path.cwd()) else first
    console.print(f"look around: {shown} device ledger --home {home}", style="dim", highlight=False, soft_wrap=True)
    return 0 if history.committed == fleet.task.rounds else 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fresh_folder(folder: Path) -> Path:
    """An empty folder; an earlier demonstration's is replaced, anything else is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise LocalError(f"{folder} is not empty and not from an earlier demonstration: choose another --output")
        shutil.rmtree(folder)
    make_directory(folder)
    (folder / _MARK).touch()
    return folder.absolute()
