"""``fedge coordinator``: what the owner of a fleet types on the laptop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.config import Config, load_config
from coordinator.run_history import latest_run, open_store
from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    from coordinator.store import Store
    from edge_runtime.task import Task

_TASK_TEMPLATE = """\
# What the coordinator asks of its devices. Every key is explained in docs/tasks.md.
name = "my-first-task"
rounds = 10

[inputs]
columns = ["x0", "x1"]          # the columns of each device's CSV or NPZ file
label = "label"
classes = ["no", "yes"]         # leave out to predict a number with loss = "mse"
# offset = [0.0, 0.0]           # public constants: (value - offset) / scale
# scale = [1.0, 1.0]
# window = { length = 128, step = 64, statistics = ["mean", "std"] }

[model]
inputs = 2                      # columns, times statistics where there is a window
layers = [{ units = 2 }]

[training]
epochs = 2
batch_size = 32
learning_rate = 0.1

[privacy]
place = "central"               # "local": each device adds its own noise; "none": no noise
clip_norm = 2.0                 # L1 norm of one device's update
epsilon = 1.0                   # per round and device

[cohort]
size = 8
quorum = 5
deadline_s = 60.0
"""


def default_home() -> Path:
    """``$FEDGE_COORDINATOR_HOME``, or ``~/.fedge/coordinator``."""
    return Path(os.environ.get("FEDGE_COORDINATOR_HOME") or Path.home() / ".fedge" / "coordinator")


def main(argv: list[str]) -> int:
    """Run ``fedge coordinator ARGV``."""
    arguments = _parser().parse_args(argv)
    commands = {
        "init": _init,
        "invite": _invite,
        "run": _run,
        "status": _status,
        "report": _report,
        "export": _export,
        "remove": _remove,
    }
    return commands[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedge coordinator", description="Let a fleet learn together.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=purpose, description=purpose)
        sub.add_argument(
            "--home", type=Path, default=default_home(), help="folder of this coordinator's state (%(default)s)"
        )
        return sub

    init = command("init", "make a fleet: its authority, its store, a first task.toml")
    init.add_argument("--listen", default="127.0.0.1:7433", metavar="HOST:PORT", help="where to listen (%(default)s)")
    init.add_argument("--advertise", metavar="HOST:PORT", help="how devices reach it (the --listen address)")
    init.add_argument(
        "--serial", action="append", default=[], metavar="PORT[@BAUD]", help="a serial line to serve; may be repeated"
    )
    init.add_argument("--task", type=Path, help="a task file to copy instead of the commented template")

    invite = command("invite", "print a join code for a device")
    invite.add_argument("--count", type=int, default=1, help="how many codes, one device each (%(default)s)")
    invite.add_argument("--minutes", type=float, default=60.0, help="how long they are good for (%(default)s)")
    invite.add_argument("--qr", action="store_true", help="also as a QR code in the terminal (needs segno)")

    run = command("run", "run the task until its rounds are done")
    run.add_argument("--task", type=Path, help="the task file (task.toml in the home folder)")
    run.add_argument("--again", action="store_true", help="run a finished task once more, from fresh parameters")
    run.add_argument("--start", type=Path, metavar="FILE", help="begin with these weights: .safetensors or .npz")
    run.add_argument("--evaluate", metavar="FILE", help="a CSV or NPZ file of public data that scores every model")
    run.add_argument("--listen", metavar="HOST:PORT", help="instead of the configured address")
    run.add_argument(
        "--serial", action="append", metavar="PORT[@BAUD]", help="instead of the configured lines; may be repeated"
    )
    run.add_argument("--seconds", type=float, help="give up after so long")
    run.add_argument("-v", "--verbose", action="store_true", help="log what happens on the connections")

    command("status", "what the task has come to")
    report = command("report", "write the HTML report of the task")
    report.add_argument("-o", "--output", type=Path, default=Path("fedge-report"), help="folder (%(default)s)")
    export = command("export", "write the model for others to use: safetensors, TFLite, a layout")
    export.add_argument("-o", "--output", type=Path, default=Path("fedge-model"), help="folder (%(default)s)")
    remove = command("remove", "put a device out of the fleet, at once")
    remove.add_argument("device", help="its id or name")
    return parser


def _init(arguments: argparse.Namespace) -> int:
    from coordinator.authority import Authority
    from coordinator.config import save_config
    from edge_runtime.task import load_task

    config = Config(arguments.listen, arguments.advertise or arguments.listen, tuple(arguments.serial))
    config.listen_address()
    Authority.require_absent(arguments.home)
    text = _TASK_TEMPLATE
    if arguments.task:
        load_task(arguments.task)  # refuses a bad file before anything is made
        text = arguments.task.read_text("utf-8")
    make_directory(arguments.home)
    task = arguments.home / "task.toml"
    if arguments.task or not task.exists():  # a task that somebody wrote there before is what they want to run
        write_file(task, text.encode(), mode=0o644)
    save_config(arguments.home, config)
    open_store(arguments.home).close()
    authority = Authority.create(arguments.home)  # last: what went before can be done again after a crash
    print(f"a new fleet in {arguments.home} (authority {authority.fingerprint.hex()})")
    print(
        f"devices reach it at {config.advertise}" + (f" and over {', '.join(config.serial)}" if config.serial else "")
    )
    print(f"the task is in {arguments.home / 'task.toml'}" + ("" if arguments.task else ": edit it to fit your data"))
    print("next: fedge coordinator invite, then fedge coordinator run")
    return 0


def _invite(arguments: argparse.Namespace) -> int:
    from coordinator.authority import Authority, new_secret
    from edge_runtime.join_code import JoinCode

    if not (1 <= arguments.count <= 10_000 and 0 < arguments.minutes <= 60 * 24 * 30):
        raise LocalError("--count is 1 to 10000 codes, --minutes at most 43200 (30 days)")
    authority, config = Authority(arguments.home), load_config(arguments.home)
    store = open_store(arguments.home)
    now_s = time.time()
    codes = []
    with store.transaction():
        for _ in range(arguments.count):
            secret, hashed = new_secret()
            store.add_invitation(hashed, now_s + 60 * arguments.minutes)
            codes.append(JoinCode(config.advertise, secret, authority.fingerprint).text())
    store.close()
    for code in codes:
        print(code)
        if arguments.qr:
            _print_qr(code)
    if sys.stdout.isatty():
        print(
            f"good for one device each, for {arguments.minutes:g} minutes; on the board: fedge device join CODE",
            file=sys.stderr,
        )
    return 0


def _print_qr(code: str) -> None:
    try:
        import segno
    except ModuleNotFoundError:
        raise LocalError("QR codes need segno: pip install segno") from None
    segno.make(code).terminal(compact=True)


def _run(arguments: argparse.Namespace) -> int:
    from coordinator.authority import Authority
    from coordinator.server import Server
    from coordinator.service import Service
    from coordinator.view import LiveView
    from edge_runtime._kernels import SystemRng
    from edge_runtime.channel import server_context

    if arguments.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    authority, config = Authority(arguments.home), load_config(arguments.home)
    host, port = (Config(arguments.listen, arguments.listen) if arguments.listen else config).listen_address()
    serial = tuple(arguments.serial) if arguments.serial is not None else config.serial
    lock = _only_one(arguments.home)
    paths = authority.paths
    context = server_context(certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority))
    store = open_store(arguments.home)
    store.check()
    task = _settle_task(store, arguments.home, arguments.task, again=arguments.again, start=arguments.start)
    evaluation = None
    if arguments.evaluate:
        from edge_runtime.features import examples
        from edge_runtime.inference import Extractors
        from edge_runtime.sources import open_source

        extract = Extractors(arguments.home / "extractors").of(task.inputs)
        with contextlib.closing(open_source(arguments.evaluate)) as source:
            evaluation = examples(source.read(task.inputs), task.inputs, extract)
    rng, noise = random.SystemRandom(), SystemRng()

    def make_service(now_s: float) -> Service:
        return Service(store, authority, rng=rng, noise=noise, evaluation=evaluation, now_s=now_s)

    async def serve() -> str:
        with LiveView() as view:
            server = Server(
                store, make_service, context, show=lambda service: view.update(service.history(time.time()))
            )
            running = asyncio.ensure_future(server.run(host, port, serial_ports=serial))
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, running.cancel)
            if arguments.seconds:
                loop.call_later(arguments.seconds, running.cancel)
            try:
                reason = await running
            except asyncio.CancelledError:
                reason = "stopped before the task was done; run it again to go on"
            view.finish(server.service.history(time.time()))
            return reason

    reason = asyncio.run(serve())
    row = store.latest_task()
    store.close()
    os.close(lock)
    print(reason)
    return 0 if row is not None and row.finished_because is not None else 1


def _only_one(home: Path) -> int:
    """A lock on the folder, held by the descriptor: two coordinators on one store would count a device twice.

    Raises LocalError while another process has it.
    """
    descriptor = os.open(home / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LocalError(f"a coordinator is running in {home} already") from None
    return descriptor


def _settle_task(store: Store, home: Path, path: Path | None, *, again: bool, start: Path | None = None) -> Task:
    """The unfinished task of the store, or a new one from the file, with the tensors of ``start`` in its parameters.

    Raises LocalError when both are there and differ, and for a task that is finished unless it is wanted ``again``: its
    model would give way to fresh parameters, and every device would pay a second time.
    """
    from coordinator.service import start_task
    from edge_runtime.model import initial_params
    from edge_runtime.task import load_task

    row = store.latest_task()
    if row is not None and row.finished_because is None:
        if path is not None and load_task(path) != row.task:
            raise LocalError(
                f'the task "{row.task.name}" is unfinished and differs from {path}: leave --task out to go on with it, '
                "or make another fleet"
            )
        if start is not None:
            raise LocalError(f'the task "{row.task.name}" is under way and has its parameters: leave --start out')
        return row.task
    import numpy as np

    task = load_task(path or home / "task.toml")
    if row is not None and row.task == task and not again:
        raise LocalError(
            f'the task "{task.name}" is finished ({row.finished_because}); get its model with: fedge coordinator '
            "export, or run it once more from fresh parameters, at the devices' expense, with --again"
        )
    params = initial_params(task.model, np.random.default_rng())
    if start is not None:
        from coordinator.interchange.state_dict import load_state_dict, read_tensors

        loaded = load_state_dict(task.model, read_tensors(start), params)
        params = loaded.params
        fresh = f"; fresh: layer {', '.join(map(str, loaded.fresh))}" if loaded.fresh else ""
        print(f"from {start}: layer {', '.join(map(str, loaded.taken))}{fresh}")
    with store.transaction():
        start_task(store, task, params=params, now_s=time.time())
    return task


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from coordinator.view import devices_table, plain, round_line

    history, _ = latest_run(arguments.home)
    console = Console()
    console.print(
        f"task {plain(history.task.name)} ({history.task_id}): {history.state}", markup=False, highlight=False
    )
    if history.open_round:
        number, answered, asked = history.open_round
        console.print(f"round {number} is open: {answered} of {asked} have answered", highlight=False)
    for record in history.rounds[-10:]:
        console.print(round_line(record, history), markup=False, highlight=False)
    if history.finished_because:
        console.print(plain(history.finished_because, 400), markup=False, highlight=False)
    console.print(devices_table(history))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from coordinator.export import export_model
    from coordinator.report import write_report

    history, params = latest_run(arguments.home)
    files = export_model(arguments.output, history.task, params).files
    print(write_report(arguments.output, history, [], model_files=files))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from coordinator.export import export_model

    history, params = latest_run(arguments.home)
    exported = export_model(arguments.output, history.task, params)
    for path in exported.files:
        print(path)
    for name, reason in exported.missing.items():
        print(f"no {name}: {reason}", file=sys.stderr)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    load_config(arguments.home)
    store = open_store(arguments.home)
    with contextlib.closing(store):
        members = [device for device in store.devices() if not device.revoked]
        # An id wins over a name: a device may have called itself by another's id.
        found = [device for device in members if device.device == arguments.device] or [
            device for device in members if device.name == arguments.device
        ]
        if len(found) != 1:
            known = ", ".join(f"{device.name} ({device.device})" for device in members) or "none"
            raise LocalError(f'"{arguments.device}" names {len(found)} devices; the fleet has: {known}')
        with store.transaction():
            store.revoke(found[0].device)
    print(f"{found[0].name} ({found[0].device}) is out of the fleet; what it has contributed stays in the model")
    return 0
