"""``fedge device doctor``: what this board is, whether it can take part, and what a task would take of it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import DeviceFault, FedgeError, LocalError
from edge_runtime.identity import Home, Membership, load_membership
from edge_runtime.messages import printable
from edge_runtime.policy import load_policy

if TYPE_CHECKING:
    from edge_runtime.task import Task

_EARLIEST_S = 1_735_689_600  # 2025: a board without a battery-backed clock starts in 1970
_LEAST_DISK_BYTES = 16 << 20  # the ledger and its journal, with room for releases


def examine(home: Home, data: str, task_file: Path | None) -> int:
    """Print a line for every check; 0 only when all have passed. ``data`` empty: what join was told."""
    report = _Report()
    report.note("board", _board())
    report.check("kernels", _kernels)
    report.check("randomness", _randomness)
    report.check("clock", _clock)
    report.check("memory", _memory)
    report.check("disk", lambda: _disk(home.path))
    report.note("LiteRT", _litert())
    membership = report.check("membership", lambda: _membership(home))
    report.check("permissions", lambda: _permissions(home))
    report.check("policy", lambda: _policy(home))
    if membership is not None:
        found = load_membership(home)
        report.check("ledger", lambda: _ledger(home))
        report.check("identity", lambda: _identity(home))
        report.check("data", lambda: _data(data or found.data))
        report.check("coordinator", lambda: _reach(home, found))
    if task_file is not None:
        report.check("task", lambda: _task(task_file, home))
    return 1 if report.failures else 0


class _Report:
    def __init__(self) -> None:
        self.failures = 0

    def note(self, what: str, words: str) -> None:
        """What is neither good nor bad."""
        print(f"     {what:<12} {words}")

    def check(self, what: str, examination: object) -> str | None:
        """Print what the examination says, or how it failed; None then."""
        assert callable(examination)
        try:
            words = str(examination())
        except (FedgeError, ImportError, OSError) as fault:
            self.failures += 1
            print(f"FAIL {what:<12} {fault}")
            return None
        first, *rest = words.splitlines()
        print(f"ok   {what:<12} {first}")
        for line in rest:
            print(f"{'':<18}{line}")
        return words


def _board() -> str:
    bits = 64 if sys.maxsize > 1 << 32 else 32
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()} ({bits} bits), {cores} core{'s' if cores > 1 else ''}, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _kernels() -> str:
    try:
        from edge_runtime import _kernels as kernels
    except ImportError as fault:
        raise DeviceFault(f"the native code does not run: {fault}") from None
    return f"instruction set {kernels.isa}"


def _randomness() -> str:
    """Noise by the system's generator, and how fast; no statistics of a few draws could say that it is random."""
    from edge_runtime import _kernels as kernels

    count = 1 << 15
    try:
        generator = kernels.SystemRng()
        kernels.discrete_laplace(generator, count, 10)  # pages and caches are warm in a release, too
        started_s = time.perf_counter()
        kernels.discrete_laplace(generator, count, 10)
        rate = count / (time.perf_counter() - started_s)
    except OSError as fault:
        raise DeviceFault(f"the system has no randomness to give: {fault}") from None
    return f"ChaCha20 seeded by the system; {rate / 1e6:.2g} million exact Laplace draws a second"


def _clock() -> str:
    now_s = time.time()
    if now_s < _EARLIEST_S:
        raise DeviceFault(
            f"it is {_date(now_s)} here: certificates are not valid yet; set the clock, or let NTP do so "
            "(timedatectl set-ntp true)"
        )
    return _date(now_s)


def _date(now_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))


def _memory() -> str:
    available, total = memory_bytes()
    return f"{_megabytes(available)} free of {_megabytes(total)}"


def memory_bytes() -> tuple[int, int]:
    """What new allocations can have without swapping, and all there is. Raises DeviceFault where /proc does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["MemAvailable"].split()[0]) << 10, int(fields["MemTotal"].split()[0]) << 10
    except (OSError, KeyError, ValueError) as fault:
        raise DeviceFault(f"/proc/meminfo does not say how much memory there is: {fault}") from None


def _disk(path: Path) -> str:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    state = os.statvfs(there)
    free = state.f_bavail * state.f_frsize
    if free < _LEAST_DISK_BYTES:
        raise DeviceFault(f"{_megabytes(free)} free at {there}; the ledger wants {_megabytes(_LEAST_DISK_BYTES)}")
    return f"{_megabytes(free)} free at {there}"


def _litert() -> str:
    import importlib.util

    for package in ("ai_edge_litert", "tflite_runtime"):
        if importlib.util.find_spec(package) is not None:
            return f"{package} is installed: frozen extractors can run"
    return "not installed; only tasks with a frozen extractor need it: pip install 'fedge[tflite]'"


def _membership(home: Home) -> str:
    membership = load_membership(home)
    return f"{membership.name} ({membership.device}) of {membership.address}"


def _permissions(home: Home) -> str:
    """The folder holds the device's key and its budget: nobody else may read the one or write the other."""
    for path in (home.path, home.key, home.policy, home.ledger):
        if not path.exists():
            continue
        state = path.stat()
        if state.st_uid != os.geteuid():
            raise LocalError(f"{path} belongs to user {state.st_uid}, this is {os.geteuid()}: run as its owner")
        if state.st_mode & (0o077 if path in (home.path, home.key) else 0o022):
            raise LocalError(f"{path} is open to others: chmod go-rwx {path}")
    if not os.access(home.path, os.W_OK):
        raise LocalError(f"{home.path} cannot be written: no release could be charged")
    return f"{home.path} is this user's alone"


def _policy(home: Home) -> str:
    policy = load_policy(home.policy)
    return f"budget {policy.epsilon_budget:g}, {', '.join(policy.places)}"


def _ledger(home: Home) -> str:
    from edge_runtime.ledger import Ledger

    with contextlib.closing(Ledger(home.ledger, create=False)) as opened:
        return f"epsilon {opened.spent_epsilon:.4g} spent"


def _identity(home: Home) -> str:
    from edge_runtime.identity import device_context

    device_context(home)
    return "key, certificate and authority are there"


def _data(data: str) -> str:
    from edge_runtime.sources import open_source

    if not data:
        raise LocalError("none set: give --data FILE.csv, FILE.npz or sensor:PORT")
    open_source(data).close()
    return data


def _reach(home: Home, membership: Membership) -> str:
    from edge_runtime.agent import connect
    from edge_runtime.messages import PROTOCOL, Hello, Refusal, Welcome

    conversation = connect(home, membership.address)
    try:
        reply = conversation.ask(Hello(PROTOCOL, "doctor", "serial" if "serial:" in membership.address else "tcp"))
    finally:
        conversation.close()
    if isinstance(reply, Welcome):
        return "answers and knows this device"
    if isinstance(reply, Refusal):
        raise LocalError(f"refused ({printable(reply.code)}): {printable(reply.reason)}")
    raise LocalError(f"answered with {type(reply).__name__}")


@dataclass(frozen=True)
class Needs:
    """What training a task takes on a device, in bytes, beyond the data and the interpreter."""

    parameters: int  # those offered, those trained, and the update
    optimizer: int
    activations: int  # what passes between the layers and back, and one gradient
    per_example: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.activations + self.per_example


def task_needs(task: Task, *, per_example: bool) -> Needs:
    """The memory of one local training, from the sizes by which the native code allocates it. ``per_example``: with
    per-example clipping.
    """
    from edge_runtime import model

    net, training = model.network(task.model), task.training
    parameters = 4 * task.model.parameter_count
    rows = training.micro_batch

    def workspace(optimizer: str, *, momentum: bool, clipped: bool) -> int:
        return net.workspace_bytes(
            training.batch_size, optimizer=optimizer, momentum=momentum, per_example=clipped, rows=rows
        )

    plain = workspace("sgd", momentum=False, clipped=False)
    with_optimizer = workspace(training.optimizer, momentum=training.momentum > 0, clipped=False)
    whole = workspace(training.optimizer, momentum=training.momentum > 0, clipped=per_example)
    # The workspace trains on a copy of the parameters; the device holds the offer, the result and the update.
    return Needs(4 * parameters, with_optimizer - plain, plain - parameters, whole - with_optimizer)


def _task(path: Path, home: Home) -> str:
    from edge_runtime.inference import Extractors
    from edge_runtime.task import load_task

    task = load_task(path)
    needs = task_needs(task, per_example=False)
    available, _ = memory_bytes()
    words = [
        f'"{printable(task.name)}" needs {_megabytes(needs.total)} beside its data:',
        f"parameters {_megabytes(needs.parameters)} ({task.model.parameter_count} of 4 bytes, in 4 copies)",
        f"optimizer {_megabytes(needs.optimizer)} ({task.training.optimizer})",
        f"activations and gradient {_megabytes(needs.activations)}",
    ]
    clipped = task_needs(task, per_example=True)
    words.append(f"per-example gradients none; a task that clips example by example takes {_megabytes(clipped.total)}")
    words.append(f"work {task.model.operations:,} multiply-adds an example, forward")
    if needs.total > available:
        raise LocalError(f"{words[0]} {_megabytes(available)} are free; take fewer parameters or a micro_batch")
    if task.inputs.extractor is not None:
        Extractors(home.extractors).of(task.inputs)
        words.append(f"extractor {task.inputs.extractor.title} is here and fits")
    return "\n".join(words)


def _megabytes(count: int) -> str:
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
