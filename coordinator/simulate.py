"""A fleet in virtual time: the shipped device and coordinator cores, their messages as bytes, a heap instead of a
network.

The same seed gives the same bytes: every generator is derived from it, time is counted, and nothing is shared between
runs. Noise drawn here is seeded and therefore protects nobody; the mechanisms, the ledger and the accounting are the
real ones.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.history import RunHistory
from coordinator.service import Peer, Service, start_task
from coordinator.store import Store
from edge_runtime import messages, model
from edge_runtime._kernels import seeded
from edge_runtime.device import Device
from edge_runtime.errors import RemoteError
from edge_runtime.features import Examples
from edge_runtime.ledger import Ledger
from edge_runtime.messages import GetTask, Offer, Reply, Request, Wait
from edge_runtime.policy import Policy
from edge_runtime.sources import Source
from edge_runtime.task import Task


@dataclass(frozen=True)
class Network:
    """One-way delay and rate of every device's link, and how fast a device trains."""

    latency_s: float = 0.02
    bytes_per_s: float = 1e6
    examples_per_s: float = 20_000.0


@dataclass
class _Simulated:
    name: str
    device: Device
    source: Source
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True)
class Outcome:
    """``params`` (P,) float32, the history on the virtual clock, and a SHA-256 over the model after every round."""

    params: np.ndarray
    history: RunHistory
    digest: str


class Simulation:
    """``sources`` has one entry a device. ``on_round`` is told after every closed round."""

    def __init__(
        self,
        task: Task,
        sources: Sequence[Source],
        *,
        seed: int,
        evaluation: Examples | None = None,
        policy: Policy | None = None,
        network: Network | None = None,
        on_round: Callable[[RunHistory], None] = lambda history: None,
    ) -> None:
        self._network, self._on_round = network or Network(), on_round
        self._now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: list[tuple[_Simulated, GetTask]] = []
        self._store = Store(":memory:")
        params = model.initial_params(task.model, np.random.default_rng([seed, 0]))
        with self._store.transaction():
            for index in range(len(sources)):
                self._store.add_device(f"dev-{index:06d}", f"device {index}", index.to_bytes(8, "big"), b"", 0.0)
            self._task_id = start_task(self._store, task, params=params, now_s=0.0, task_id=f"simulation-{seed}")
        self._service = Service(
            self._store, None, rng=random.Random(seed), noise=_keystream(seed, "sum"), evaluation=evaluation, now_s=0.0
        )
        budget = policy or Policy(epsilon_budget=1e6, places=("none", "local", "central"), minimum_cohort=1)
        self._devices = [_simulated(index, source, seed, budget) for index, source in enumerate(sources)]
        self._digest = hashlib.sha256()
        self._seen_version = self._seen_committed = 0

    def run(self) -> Outcome:
        """Run the task to its end."""
        for device in self._devices:
            self._at(0.0, functools.partial(self._ask, device))
        while self._heap and self._service.finished_because is None:
            self._now_s, _, action = heapq.heappop(self._heap)
            action()
        return Outcome(self._service.params, self._service.history(self._now_s), self._digest.hexdigest())

    # A device's request on its way, the coordinator's answer on its way back

    def _ask(self, device: _Simulated) -> None:
        request = device.device.request(self._now_s)
        if request is None:
            if device.device.finished_because is None:
                self._at(max(device.device.wakeup_at_s, self._now_s), lambda: self._ask(device))
            return
        data = messages.encode(request)
        device.bytes_up += len(data)
        self._at(self._now_s + self._travel_s(data), lambda: self._arrive(device, data))

    def _arrive(self, device: _Simulated, data: bytes) -> None:
        request = messages.decode(data, peer=device.name)
        assert isinstance(request, Request)
        with self._store.transaction():
            reply = self._service.handle(Peer(device.name, device.name), request, self._now_s)
            self._service.tick(self._now_s)
        if isinstance(reply, Wait) and isinstance(request, GetTask):
            self._waiting.append((device, request))
            self._watch_the_clock()
        else:
            self._answer(device, reply)
        self._notice()

    def _answer(self, device: _Simulated, reply: Reply) -> None:
        data = messages.encode(reply)
        device.bytes_down += len(data)
        self._at(self._now_s + self._travel_s(data), lambda: self._hear(device, data))

    def _hear(self, device: _Simulated, data: bytes) -> None:
        reply = messages.decode(data, peer="the coordinator")
        assert isinstance(reply, Reply)
        try:
            device.device.receive(reply, self._now_s)
        except RemoteError:
            device.device.connected()  # as the agent does: begin again
        self._at(self._now_s + self._work_s(device, reply), lambda: self._ask(device))

    def _notice(self) -> None:
        """Wake the held questions whenever their answer may have changed, as the server does."""
        if self._service.version == self._seen_version:
            return
        self._seen_version = self._service.version
        waiting, self._waiting = self._waiting, []
        for device, request in waiting:
            data = messages.encode(request)
            self._at(self._now_s, functools.partial(self._arrive, device, data))
        history = self._service.history(self._now_s)
        if len(history.rounds) > self._seen_committed:
            self._seen_committed = len(history.rounds)
            self._digest.update(self._service.params.astype("<f4").tobytes())
            self._on_round(history)

    def _watch_the_clock(self) -> None:
        wakeup_s = self._service.wakeup_at_s
        if wakeup_s is not None:
            self._at(max(wakeup_s, self._now_s), self._tick)

    def _tick(self) -> None:
        with self._store.transaction():
            self._service.tick(self._now_s)
        self._notice()

    def _travel_s(self, data: bytes) -> float:
        return self._network.latency_s + len(data) / self._network.bytes_per_s

    def _work_s(self, device: _Simulated, reply: Reply) -> float:
        if not isinstance(reply, Offer):
            return 0.0
        rows = len(device.source.read(reply.task.inputs).labels)
        return rows * reply.task.training.epochs / self._network.examples_per_s

    def _at(self, when_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when_s, next(self._order), action))


def _simulated(index: int, source: Source, seed: int, policy: Policy) -> _Simulated:
    ids = itertools.count()
    device = Device(
        policy=policy,
        ledger=Ledger(":memory:", create=True),
        source=source,
        noise=_keystream(seed, f"device {index}"),
        shuffle=np.random.default_rng([seed, index + 1]),
        new_id=lambda: f"{index:08d}-{next(ids):08d}",
    )
    return _Simulated(f"dev-{index:06d}", device, source)


def _keystream(seed: int, purpose: str) -> seeded.SeededRng:
    return seeded.SeededRng(hashlib.sha256(f"fedge simulation {seed} {purpose}".encode()).digest())
