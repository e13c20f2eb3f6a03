"""What the runtime's tests share: small tasks, offers, data in memory, certificates, and a coordinator in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from coordinator.authority import Authority, new_secret
from coordinator.server import Server
from coordinator.service import Service, start_task
from coordinator.store import Store
from edge_runtime._kernels import SystemRng
from edge_runtime.architecture import Dense
from edge_runtime.channel import client_context, server_context
from edge_runtime.features import Table
from edge_runtime.identity import Home, _certificate_request, _own_key
from edge_runtime.join_code import JoinCode
from edge_runtime.messages import Offer, encode_task
from edge_runtime.params import Tensor
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec

settings.register_profile("runtime", deadline=None, max_examples=60)
settings.load_profile("runtime")


def make_task(**changes: Any) -> Task:
    task = Task(
        name="test",
        rounds=3,
        inputs=InputSpec(columns=("a", "b"), label="label", classes=("no", "yes")),
        model=ModelSpec(inputs=2, layers=(Dense(2),)),
        training=TrainingSpec(epochs=2, batch_size=4, learning_rate=0.5),
        privacy=PrivacySpec(place="local", epsilon=1.0),
        cohort=CohortSpec(size=8, quorum=1, deadline_s=5.0, gather_s=0.0),
    )
    return replace(task, **changes)


def make_offer(task: Task, *, round_number: int = 1, cohort: int = 8, params: Any = None, task_id: str = "t1") -> Offer:
    if params is None:
        params = np.zeros(task.model.parameter_count, np.float32)
    return Offer(task_id, round_number, cohort, encode_task(task), Tensor.of(params))


class MemorySource:
    """Data in memory; ``fault`` is raised instead while it is set."""

    def __init__(self, table: Table) -> None:
        self.table, self.fault = table, None
        self.reads = 0

    def read(self, spec: InputSpec) -> Table:
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        return self.table

    def close(self) -> None:
        pass


def make_source(rows: int = 40) -> MemorySource:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(rows, 2)).astype(np.float32)
    return MemorySource(Table(values, (values[:, 0] > 0).astype(np.int32)))


@dataclass(frozen=True)
class Fleet:
    """An authority with a server context, and a device that holds its certificate."""

    authority: Authority
    home: Home
    device: str

    def server(self) -> ssl.SSLContext:
        paths = self.authority.paths
        return server_context(certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority))

    def client(self, *, anonymous: bool = False) -> ssl.SSLContext:
        certificate, key = (None, None) if anonymous else (str(self.home.certificate), str(self.home.key))
        return client_context(certificate=certificate, key=key, authority=str(self.home.authority))


def make_fleet(folder: Path) -> Fleet:
    authority = Authority.create(folder / "coordinator")
    home = Home(folder / "device")
    home.path.mkdir(mode=0o700)
    device, _, certificate = authority.issue(_certificate_request(_own_key(home), "device"))
    home.certificate.write_text(ssl.DER_cert_to_PEM_cert(certificate))
    home.authority.write_text(ssl.DER_cert_to_PEM_cert(authority.certificate))
    return Fleet(authority, home, device)


class RunningCoordinator:
    """The real server in a thread of its own, on a loopback port; ``stop`` and ``start`` restart it on that port."""

    def __init__(self, folder: Path, task: Task, *, serial_ports: tuple[str, ...] = ()) -> None:
        self._serial_ports = serial_ports
        self.authority = Authority.create(folder)
        self._path, self._port = folder / "store.sqlite", 0
        self.task_id = ""
        store = Store(self._path)
        with store.transaction():
            params = np.zeros(task.model.parameter_count, np.float32)
            self.task_id = start_task(store, task, params=params, now_s=time.time())
        store.close()
        self.start()

    def start(self) -> None:
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        deadline_s = time.monotonic() + 10
        while self._thread.is_alive() and time.monotonic() < deadline_s:
            with contextlib.suppress(RuntimeError):  # it has finished by itself
                self._loop.call_soon_threadsafe(self._task.cancel)  # again: wait_for of 3.11 may swallow one
            self._thread.join(0.2)
        assert not self._thread.is_alive()

    def invite(self) -> JoinCode:
        secret, kept = new_secret()

        def add() -> None:
            with self._store.transaction():
                self._store.add_invitation(kept, time.time() + 60)
            done.set()

        done = threading.Event()
        self._loop.call_soon_threadsafe(add)
        assert done.wait(10)
        return JoinCode(self.address, secret, self.authority.fingerprint)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def contributions(self) -> dict[str, int]:
        store = Store(self._path)
        try:
            return dict(store.contribution_counts(self.task_id))
        finally:
            store.close()

    def _run(self) -> None:
        self._store = Store(self._path)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            self._store.close()

    async def _serve(self) -> None:
        paths = self.authority.paths
        context = server_context(
            certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority)
        )

        def make_service(now_s: float) -> Service:
            return Service(
                self._store, self.authority, rng=random.Random(1), noise=SystemRng(), evaluation=None, now_s=now_s
            )

        server = Server(self._store, make_service, context)
        self._task = asyncio.create_task(
            server.run("127.0.0.1", self._port, serial_ports=self._serial_ports, linger_s=0.5)
        )
        while server.address is None and not self._task.done():
            await asyncio.sleep(0.005)
        if server.address is not None:
            self._port = server.address[1]
        self._ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def stranger_fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Callable[..., RunningCoordinator]]:
    """A function that starts a coordinator for a task."""
    running: list[RunningCoordinator] = []

    def start(task: Task, **options: Any) -> RunningCoordinator:
        running.append(RunningCoordinator(tmp_path / f"coordinator-{len(running)}", task, **options))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def new_task() -> Callable[..., Task]:
    return make_task


@pytest.fixture
def new_offer() -> Callable[..., Offer]:
    return make_offer


@pytest.fixture
def source() -> MemorySource:
    return make_source()
