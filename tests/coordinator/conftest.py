"""A small task, a service on a store in memory, devices that are nothing but ids, and real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from coordinator.service import Peer, Service, start_task
from coordinator.store import Store
from edge_runtime import messages
from edge_runtime._kernels import seeded
from edge_runtime.architecture import Dense
from edge_runtime.device import Device
from edge_runtime.features import Table
from edge_runtime.ledger import Ledger
from edge_runtime.messages import Contribute, GetTask, Hello, Reply, Request
from edge_runtime.params import Tensor
from edge_runtime.policy import Policy
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec


def make_task(place: str = "central", *, size: int = 3, quorum: int = 2, rounds: int = 3, **cohort: float) -> Task:
    return Task(
        name="small",
        rounds=rounds,
        inputs=InputSpec(("a", "b"), "label", ("no", "yes")),
        model=ModelSpec(2, (Dense(2),)),
        training=TrainingSpec(epochs=1, batch_size=4, learning_rate=0.5),
        privacy=PrivacySpec(place, clip_norm=2.0, epsilon=1.0),
        cohort=CohortSpec(size, quorum, **cohort),
    )


def make_table(seed: int, rows: int = 12) -> Table:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2)).astype(np.float32)
    return Table(values, (values[:, 0] > values[:, 1]).astype(np.int32))


class FixedSource:
    def __init__(self, table: Table) -> None:
        self.table = table

    def read(self, spec: InputSpec) -> Table:
        return self.table

    def close(self) -> None:
        pass


def keystream(text: str) -> seeded.SeededRng:
    return seeded.SeededRng(text.encode().ljust(32, b".")[:32])


def make_device(index: int, *, ledger: Ledger | None = None, policy: Policy | None = None) -> Device:
    ids = iter(range(1_000_000))
    return Device(
        policy=policy or Policy(epsilon_budget=1e6, places=("none", "local", "central"), minimum_cohort=1),
        ledger=ledger or Ledger(":memory:", create=True),
        source=FixedSource(make_table(index)),
        noise=keystream(f"device {index}"),
        simulated=True,
        shuffle=np.random.default_rng(index),
        new_id=lambda: f"device{index:04d}-{next(ids):06d}",
    )


@dataclass
class Bench:
    """A service, its store, the time, and the bytes between."""

    task: Task
    devices: int = 4
    authority: object = None
    now_s: float = 1000.0
    seed: int = 1
    store: Store = field(default_factory=lambda: Store(":memory:"))

    def __post_init__(self) -> None:
        size = self.task.model.parameter_count
        with self.store.transaction():
            for index in range(self.devices):
                name = self.name(index)
                self.store.add_device(name, name, name.encode(), b"certificate of " + name.encode(), 0.0)
            start_task(self.store, self.task, params=np.zeros(size, np.float32), now_s=0.0, task_id="task-1")
        self.restart()

    def restart(self) -> None:
        """As after a crash: all that is known is in the store."""
        self.service = Service(
            self.store,
            self.authority,  # type: ignore[arg-type]
            rng=random.Random(self.seed),
            noise=keystream("sum"),
            evaluation=None,
            now_s=self.now_s,
        )

    @staticmethod
    def name(index: int) -> str:
        return f"dev-{index:020d}"

    def ask(self, index: int | Peer, request: Request, *, tick: bool = True) -> Reply:
        """Over the wire and back, with a transaction, as the server does."""
        peer = index if isinstance(index, Peer) else Peer(self.name(index), self.name(index))
        request = messages.decode(messages.encode(request), peer="test")  # type: ignore[assignment]
        with self.store.transaction():
            reply = self.service.handle(peer, request, self.now_s)
            if tick:
                self.service.tick(self.now_s)
        return messages.decode(messages.encode(reply), peer="test")  # type: ignore[return-value]

    def tick(self, seconds: float = 0.0) -> None:
        self.now_s += seconds
        with self.store.transaction():
            self.service.tick(self.now_s)

    def gather(self, *indices: int) -> None:
        """These devices greet and ask for work, which opens a round when they are enough."""
        for index in indices or range(self.devices):
            self.ask(index, Hello(messages.PROTOCOL, "test", "tcp"))
            self.ask(index, GetTask(0.0))

    def contribution(self, values: object = (1, -2, 0, 3, 0, 0), **changes: object) -> Contribute:
        array = np.asarray(values)
        if array.dtype == np.int64:
            array = array.astype(np.int32)
        members: dict[str, object] = {
            "task_id": "task-1",
            "round": self.service._rounds.number,
            "release_id": "release-0001",
            "update": Tensor.of(array),
        }
        return Contribute(**(members | changes))  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """``bench(place, size=.., quorum=.., devices=..)``."""

    def make(place: str = "central", *, devices: int = 4, authority: object = None, **cohort: float) -> Bench:
        return Bench(make_task(place, **cohort), devices=devices, authority=authority)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def new_task() -> Callable[..., Task]:
    return make_task


@pytest.fixture(scope="session")
def new_table() -> Callable[..., Table]:
    return make_table


@pytest.fixture(scope="session")
def new_device() -> Callable[..., Device]:
    return make_device


@pytest.fixture(scope="session")
def bench_class() -> type[Bench]:
    return Bench


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger(":memory:", create=True)
    yield opened
    opened.close()
