"""``fedge device``: what the owner of a board types."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError
from edge_runtime.identity import Home, default_home, load_membership
from edge_runtime.messages import printable
from edge_runtime.policy import Policy, load_policy
from edge_runtime.tables import to_toml

if TYPE_CHECKING:
    from edge_runtime.ledger import Entry


def main(argv: list[str]) -> int:
    """Run ``fedge device ARGV``."""
    arguments = _parser().parse_args(argv)
    home = Home(arguments.home)
    commands = {"join": _join, "run": _run, "status": _status, "ledger": _ledger, "doctor": _doctor}
    command = commands[arguments.command]
    return command(home, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedge device", description="Take part in a fleet without giving data away.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=purpose, description=purpose)
        sub.add_argument(
            "--home", type=Path, default=default_home(), help="folder of this device's state (%(default)s)"
        )
        return sub

    join = command("join", "enrol this device with the coordinator that printed the code")
    join.add_argument("code", help="the join code that `fedge coordinator invite` printed")
    join.add_argument(
        "--name", default=socket.gethostname()[:40] or "device", help="how people call this device (%(default)s)"
    )
    join.add_argument("--data", default="", help="where its data is: FILE.csv, FILE.npz or sensor:PORT")
    join.add_argument(
        "--link", help="how to reach the coordinator, instead of the code's address: HOST:PORT or serial:PORT[@BAUD]"
    )
    join.add_argument("--budget", type=float, metavar="EPSILON", help="all the epsilon this device may ever spend (8)")
    join.add_argument(
        "--allow-unprotected",
        action="store_true",
        help="also take tasks without any noise: updates then show what they show",
    )

    run = command("run", "train when asked, until the task is finished")
    run.add_argument("--data", help="where the data is, instead of what join was told")
    run.add_argument("--link", help="how to reach the coordinator, instead of what join was told")
    run.add_argument(
        "--wait", type=float, default=30.0, metavar="SECONDS", help="how long to hold a question open (%(default)s)"
    )
    run.add_argument("-v", "--verbose", action="store_true", help="say what happens in between")

    command("status", "who this device is, what its owner allows, what it has spent")
    ledger = command("ledger", "every release that left this device and what it cost")
    ledger.add_argument("--csv", action="store_true", help="as comma-separated values")
    doctor = command("doctor", "check that this device can take part, and say how to mend what cannot")
    doctor.add_argument("--data", help="where the data is, instead of what join was told")
    doctor.add_argument("--task", type=Path, metavar="FILE", help="also say how much memory this task takes here")
    return parser


def _join(home: Home, arguments: argparse.Namespace) -> int:
    from edge_runtime.identity import join
    from edge_runtime.join_code import JoinCode
    from edge_runtime.sources import open_source

    code = JoinCode.parse(arguments.code)
    data = _absolute(arguments.data)
    if data and not data.startswith("sensor:"):
        open_source(data).close()  # a typing error in the path is better told now than in the first round
    if arguments.budget is not None and not 0 <= arguments.budget <= 1e6:
        raise LocalError(f"--budget {arguments.budget:g} is not between 0 and 1000000")
    before = home.policy.read_bytes() if home.policy.exists() else None
    if not home.membership.exists():  # before joining: a crash in between must not leave a larger budget
        _write_policy(home, arguments.budget, allow_unprotected=arguments.allow_unprotected)
    try:
        membership = join(home, code, name=arguments.name, address=arguments.link, data=data)
    except BaseException:
        if not home.membership.exists():  # what was allowed for this attempt is not allowed for the next
            home.policy.unlink() if before is None else write_file(home.policy, before)
        raise
    policy = load_policy(home.policy)
    print(f'joined as "{membership.name}" ({membership.device})')
    print(f"may spend epsilon {policy.epsilon_budget:g} in all, under {', '.join(policy.places) or 'nothing'}")
    print(f"state in {home.path}; budget and limits in {home.policy}")
    print(f"next: fedge device run --home {home.path}" + ("" if data else " --data FILE.csv"))
    return 0


def _write_policy(home: Home, budget: float | None, *, allow_unprotected: bool) -> None:
    """The policy as it is, or its defaults, with what the owner has just said."""
    policy = load_policy(home.policy) if home.policy.exists() else Policy()
    if budget is not None:
        policy = replace(policy, epsilon_budget=float(budget))
    if allow_unprotected and "none" not in policy.places:
        policy = replace(policy, places=(*policy.places, "none"))
    text = (
        "# What this device may release. Only its owner writes here; no coordinator can raise it.\n"
        "# epsilon_budget: over the device's whole life, releases added up\n"
        '# places: where noise may be added; "none" releases updates unprotected\n'
        "# minimum_cohort: fewest devices whose sum may be noised centrally\n"
        "# columns: those of the data that a task may read, the label included; empty for any\n"
    )
    make_directory(home.path)
    write_file(home.policy, (text + to_toml(policy)).encode())


def _absolute(data: str) -> str:
    return data if not data or data.startswith("sensor:") else str(Path(data).absolute())


def _run(home: Home, arguments: argparse.Namespace) -> int:
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    membership = load_membership(home)
    policy = load_policy(home.policy)
    data = _absolute(arguments.data or "") or membership.data
    if not data:
        raise LocalError("this device has no data: name it with --data FILE.csv, FILE.npz or sensor:PORT")
    address = arguments.link or membership.address
    wait_s = arguments.wait
    if not 0 <= wait_s <= 300:
        raise LocalError(f"--wait {wait_s:g} is not between 0 and 300")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy brings a pool of threads that nothing here uses
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from edge_runtime import agent
    from edge_runtime.device import Device
    from edge_runtime.ledger import Ledger
    from edge_runtime.sources import open_source

    with (
        contextlib.closing(Ledger(home.ledger, create=False)) as ledger,
        contextlib.closing(open_source(data)) as source,
    ):
        link = "serial" if address.startswith("serial:") else "tcp"
        device = Device(
            policy=policy, ledger=ledger, source=source, link=link, wait_s=wait_s, extractor_folder=home.extractors
        )
        reason = agent.run(device, home, address, wait_s=wait_s)
        print(f"finished: {reason}; epsilon spent {ledger.spent_epsilon:.4g} of {policy.epsilon_budget:.4g}")
    return 0


def _status(home: Home, arguments: argparse.Namespace) -> int:
    from edge_runtime.ledger import Ledger

    membership, policy = load_membership(home), load_policy(home.policy)
    with contextlib.closing(Ledger(home.ledger, create=False)) as ledger:
        entries, spent_epsilon = list(ledger.entries()), ledger.spent_epsilon
    unprotected = sum(entry.epsilon is None for entry in entries)
    waiting = sum(entry.outcome is None for entry in entries)
    print(f"device       {membership.name} ({membership.device})")
    print(f"coordinator  {membership.address}")
    print(f"data         {membership.data or 'not set: give --data to run'}")
    print(f"releases     {len(entries)}" + (f", {waiting} not acknowledged yet" if waiting else ""))
    print(f"epsilon      {spent_epsilon:.4g} spent of {policy.epsilon_budget:.4g}")
    if unprotected:
        print(f"unprotected  {unprotected} releases left without any mechanism, as the owner allows")
    print(f"allows       {', '.join(policy.places)}; cohorts of {policy.minimum_cohort} or more")
    return 0


def _ledger(home: Home, arguments: argparse.Namespace) -> int:
    from edge_runtime.ledger import Ledger

    load_membership(home)
    policy = load_policy(home.policy)
    with contextlib.closing(Ledger(home.ledger, create=False)) as ledger:
        entries, epsilon, delta = list(ledger.entries()), ledger.spent_epsilon, ledger.spent_delta
    if arguments.csv:
        _print_csv(entries)
        return 0
    print(f"{'time':<20}{'task':<18}{'round':>6}  {'noise':<8}{'epsilon':>9}  outcome")
    for entry in entries:
        cost = "none" if entry.epsilon is None else f"{entry.epsilon:.4f}"
        outcome = entry.outcome or "not acknowledged yet"
        task = printable(entry.task_id)[:16]
        print(f"{_when(entry):<20}{task:<18}{entry.round:>6}  {entry.place:<8}{cost:>9}  {outcome}")
    print(f"spent: epsilon {epsilon:.4f} of {policy.epsilon_budget:.4g} (sequential composition)")
    if delta:
        print(f"delta: below {delta:.1e}, all of it the noise sampler's distance from its law (docs/noise.md)")
    return 0


def _print_csv(entries: list[Entry]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["time", "task", "round", "place", "epsilon", "delta", "outcome", "release_id"])
    for entry in entries:
        outcome = entry.outcome or "not acknowledged yet"
        cost = (entry.epsilon, entry.delta)
        writer.writerow(
            [_when(entry), _cell(entry.task_id), entry.round, entry.place, *cost, outcome, entry.release_id]
        )


def _cell(text: str) -> str:
    """A coordinator's text as a cell that neither a terminal nor a spreadsheet executes."""
    text = printable(text)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def _when(entry: Entry) -> str:
    return datetime.datetime.fromtimestamp(entry.charged_at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _doctor(home: Home, arguments: argparse.Namespace) -> int:
    from edge_runtime.doctor import examine

    return examine(home, _absolute(arguments.data or ""), arguments.task)
