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
from edge_runtime.errors import LocalError, RemoteError
from edge_runtime.features import Examples
from edge_runtime.ledger import Ledger
from edge_runtime.messages import Finished, GetTask, Hello, Message, Offer, Reply, Request, Wait
from edge_runtime.policy import Policy
from edge_runtime.sources import Source
from edge_runtime.task import Task

_ALIKE = (Hello, GetTask, Wait, Finished)
_SHORT_BYTES = 40  # the requests that are alike; a receipt is longer


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
    peer: Peer
    bytes_up: int = 0
    bytes_down: int = 0
    heard_s: float = 0.0


class _Codec:
    """Messages to bytes and back. What thousands of devices say or hear in the same words is worked out once."""

    def __init__(self) -> None:
        self._offer: tuple[Offer, bytes] | None = None
        self._decoded_offer: tuple[bytes, Offer] | None = None
        self._encode_short = functools.lru_cache(maxsize=64)(messages.encode)
        self._decode_short = functools.lru_cache(maxsize=64)(
            functools.partial(messages.decode, peer="a simulated peer")
        )

    def encode(self, message: Message) -> bytes:
        if isinstance(message, Offer):
            if self._offer is None or self._offer[0] is not message:
                self._offer = (message, messages.encode(message))
            return self._offer[1]
        return self._encode_short(message) if isinstance(message, _ALIKE) else messages.encode(message)

    def decode(self, data: bytes) -> Message:
        if self._decoded_offer is not None and self._decoded_offer[0] is data:
            return self._decoded_offer[1]
        if len(data) <= _SHORT_BYTES:
            return self._decode_short(data)
        message = messages.decode(data, peer="a simulated peer")
        if isinstance(message, Offer):
            self._decoded_offer = (data, message)
        return message


@dataclass(frozen=True)
class Outcome:
    """``params`` (P,) float32, the history on the virtual clock, and a SHA-256 over the model after every round."""

    params: np.ndarray
    history: RunHistory
    digest: str


class Simulation:
    """``sources`` has one entry a device. ``on_round`` is told after every closed round.

    Raises LocalError when there are fewer devices than the task's quorum.
    """

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
        if len(sources) < task.cohort.quorum:
            raise LocalError(f"there are {len(sources)} devices, the task's quorum is {task.cohort.quorum}")
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
        self._seen_version = self._seen_closed = 0
        self._tick_at_s: float | None = None
        self._codec = _Codec()

    def run(self) -> Outcome:
        """Run the task to its end."""
        for device in self._devices:
            self._at(0.0, functools.partial(self._ask, device))
        with self._store.transaction():  # nothing has to survive: one for all
            while self._heap and self._service.finished_because is None:
                self._now_s, _, action = heapq.heappop(self._heap)
                action()
            for device in self._devices:
                self._store.note_traffic(
                    device.name,
                    link="tcp",
                    now_s=device.heard_s,
                    bytes_up=device.bytes_up,
                    bytes_down=device.bytes_down,
                )
        return Outcome(self._service.params, self._service.history(self._now_s), self._digest.hexdigest())

    # A device's request on its way, the coordinator's answer on its way back

    def _ask(self, device: _Simulated) -> None:
        request = device.device.request(self._now_s)
        if request is None:
            if device.device.finished_because is None:
                self._at(max(device.device.wakeup_at_s, self._now_s), functools.partial(self._ask, device))
            return
        data = self._codec.encode(request)
        device.bytes_up += len(data)
        self._at(self._now_s + self._travel_s(data), functools.partial(self._arrive, device, data))

    def _arrive(self, device: _Simulated, data: bytes) -> None:
        request = self._codec.decode(data)
        assert isinstance(request, Request)
        device.heard_s = self._now_s
        self._serve(device, request)

    def _serve(self, device: _Simulated, request: Request) -> None:
        reply = self._service.handle(device.peer, request, self._now_s)
        self._service.tick(self._now_s)
        if isinstance(reply, Wait) and isinstance(request, GetTask):
            self._waiting.append((device, request))
        else:
            self._answer(device, reply)
        self._notice()

    def _answer(self, device: _Simulated, reply: Reply) -> None:
        data = self._codec.encode(reply)
        device.bytes_down += len(data)
        self._at(self._now_s + self._travel_s(data), functools.partial(self._hear, device, data))

    def _hear(self, device: _Simulated, data: bytes) -> None:
        reply = self._codec.decode(data)
        assert isinstance(reply, Reply)
        try:
            device.device.receive(reply, self._now_s)
        except RemoteError:
            device.device.connected()  # as the agent does: begin again
        self._at(self._now_s + self._work_s(device, reply), functools.partial(self._ask, device))

    def _notice(self) -> None:
        """Wake the held questions whenever their answer may have changed, as the server does."""
        self._watch_the_clock()
        if self._service.version == self._seen_version:
            return
        self._seen_version = self._service.version
        waiting, self._waiting = self._waiting, []
        for device, request in waiting:
            self._at(self._now_s, functools.partial(self._serve, device, request))
        if self._service.closed > self._seen_closed:
            self._seen_closed = self._service.closed
            self._digest.update(self._service.params.astype("<f4", copy=False).tobytes())
            self._on_round(self._service.history(self._now_s))

    def _watch_the_clock(self) -> None:
        """Have one tick on the heap for the time the service asks for."""
        wakeup_s = self._service.wakeup_at_s(self._now_s)
        if wakeup_s is not None and wakeup_s != self._tick_at_s:
            self._tick_at_s = wakeup_s
            self._at(max(wakeup_s, self._now_s), self._tick)

    def _tick(self) -> None:
        self._tick_at_s = None
        self._service.tick(self._now_s)
        self._notice()

    def _travel_s(self, data: bytes) -> float:
        return self._network.latency_s + len(data) / self._network.bytes_per_s

    def _work_s(self, device: _Simulated, reply: Reply) -> float:
        if not isinstance(reply, Offer):
            return 0.0
        try:
            rows = len(device.source.read(reply.task.inputs).labels)
        except LocalError:  # it has declined for that
            return 0.0
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
        simulated=True,
        shuffle=np.random.default_rng([seed, index + 1]),
        new_id=lambda: f"{index:08d}-{next(ids):08d}",
    )
    name = f"dev-{index:06d}"
    return _Simulated(name, device, source, Peer(name, name))


def _keystream(seed: int, purpose: str) -> seeded.SeededRng:
    return seeded.SeededRng(hashlib.sha256(f"fedge simulation {seed} {purpose}".encode()).digest())
