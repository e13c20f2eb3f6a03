"""What a round costs the coordinator: wall time over TCP with real devices, and its own CPU with many.

The peer's figure is Flower 1.42's on the same kind of machine: 13 s from one aggregate to the next with ten nodes and
10,102 parameters (``benchmarks.flower`` measures both sides in one run where Flower is installed).

The CPU cases drive the server's own code over TLS, messages and a store on the disk, without sockets and without the
devices: a round is an offer to every device, its contribution, and its next question, in batches of 64 as they arrive
when many are busy. Only the coordinator's side is timed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._fleet import RealFleet, cpu_s
from coordinator.authority import Authority
from coordinator.server import Connection, Server, _Question
from coordinator.service import Service, start_task
from coordinator.store import Store
from edge_runtime import messages
from edge_runtime._kernels import SystemRng
from edge_runtime.architecture import Dense
from edge_runtime.channel import Channel, client_context, server_context
from edge_runtime.messages import Contribute, GetTask, Hello, Offer
from edge_runtime.params import Tensor
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task

_DEVICES, _ROUNDS = 10, 20
_PEER, _PEER_ROUND_S = "Flower 1.42, measured on the same kind of machine", 13.0
_BATCH = 64
_SIZES = ((10, 10_000), (100, 10_000), (1000, 10_000), (10, 1_000_000), (100, 1_000_000))


def cases() -> Iterator[dict[str, object]]:
    """Real rounds first, then CPU for growing fleets and models."""
    yield from real_rounds()
    for devices, parameters in _SIZES:
        yield round_cpu(devices, parameters, rounds=2 if parameters * devices > 10**7 else 4)


def real_rounds() -> Iterator[dict[str, object]]:
    """Ten device processes over TCP and mutual TLS, central noise, 10,102 parameters."""
    with tempfile.TemporaryDirectory() as folder, RealFleet(Path(folder), devices=_DEVICES, rounds=_ROUNDS) as fleet:
        assert fleet.coordinator is not None
        for index in range(_DEVICES):
            fleet.start_device(index)
        before_s = after_s = cpu_s(fleet.coordinator.pid)
        while fleet.coordinator.poll() is None and _closed(fleet) < _ROUNDS:
            after_s = cpu_s(fleet.coordinator.pid)
            time.sleep(0.02)
        with sqlite3.connect(fleet.folder / "coordinator" / "fleet.sqlite") as database:
            closed = [at for (at,) in database.execute("SELECT closed_at FROM round ORDER BY number")]
        database.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(closed)]
    yield _case(f"TCP round, {_DEVICES} devices, 10,102 parameters: wall time", statistics.median(gaps), _PEER_ROUND_S)
    yield _case(f"TCP round, {_DEVICES} devices: coordinator CPU, start included", (after_s - before_s) / _ROUNDS, None)


def _closed(fleet: RealFleet) -> int:
    with sqlite3.connect(fleet.folder / "coordinator" / "fleet.sqlite") as database:
        (count,) = database.execute("SELECT COUNT(*) FROM round WHERE outcome IS NOT NULL").fetchone()
    database.close()
    return int(count)


@dataclass
class _Caller:
    """A device's end of a conversation: it only ever speaks."""

    connection: Connection
    channel: Channel

    def say(self, request: messages.Request) -> bytes:
        return b"".join(self.channel.pieces(messages.encode(request)))


class _Bench:
    """A server without sockets and ``devices`` callers that have greeted; ``spent_s`` counts the server's CPU."""

    def __init__(self, folder: Path, devices: int, parameters: int) -> None:
        self.spent_s = 0.0
        units = parameters // 100
        task = Task(
            name="cpu",
            rounds=100_000,
            inputs=InputSpec(tuple(f"x{index}" for index in range(99)), "y"),
            model=ModelSpec(99, (Dense(units), Dense(1)), "mse"),
            privacy=PrivacySpec("central", clip_norm=1.0, epsilon=10.0, log2_scale=10),
            cohort=CohortSpec(devices, devices),
        )
        self.size = task.model.parameter_count
        authority = Authority.create(folder / "home")
        self.store = Store(folder / "home" / "fleet.sqlite")
        paths = authority.paths
        context = server_context(
            certificate=str(paths.server), key=str(paths.server_key), authority=str(paths.authority)
        )
        with self.store.transaction():
            start_task(self.store, task, params=np.zeros(self.size, np.float32), now_s=0.0, task_id="cpu")
            identity = _identities(authority, self.store, folder, devices)
        self.server = Server(self.store, lambda now_s: self._service(authority, now_s), context)
        self.callers = [self._call(own, authority) for own in identity]
        self.ask([GetTask(0.0)] * devices)

    def _service(self, authority: Authority, now_s: float) -> Service:
        return Service(self.store, authority, rng=random.Random(1), noise=SystemRng(), evaluation=None, now_s=now_s)

    def _call(self, own: tuple[str, str], authority: Authority) -> _Caller:
        context = client_context(certificate=own[0], key=own[1], authority=str(authority.paths.authority))
        caller = _Caller(
            self.server.new_connection("tcp"), Channel(context, server_side=False, max_message_bytes=1 << 30)
        )
        self.server.received(caller.connection, caller.channel.bytes_to_send())
        caller.channel.receive(caller.connection.channel.bytes_to_send())
        self.server.received(caller.connection, caller.channel.bytes_to_send())
        self.server.received(caller.connection, caller.say(Hello(messages.PROTOCOL, "benchmark", "tcp")))
        return caller

    def ask(self, requests: list[messages.Request]) -> list[messages.Reply]:
        """One request of every caller, in batches; the answers leave as ciphertext that nobody reads."""
        replies: list[messages.Reply] = []
        for start in range(0, len(requests), _BATCH):
            callers = self.callers[start : start + _BATCH]
            spoken = [c.say(r) for c, r in zip(callers, requests[start : start + _BATCH], strict=True)]
            started_s = time.process_time()
            questions = [
                _Question(caller.connection, self._hear(caller.connection, data), self._future())
                for caller, data in zip(callers, spoken, strict=True)
            ]
            self.server._questions = questions
            self.server._step()
            for question in questions:
                reply = question.answer.result()
                for _ in question.connection.channel.pieces(self.server.encoded(reply)):
                    pass
                replies.append(reply)
            self.spent_s += time.process_time() - started_s
        return replies

    def _hear(self, connection: Connection, data: bytes) -> messages.Request:
        requests: list[messages.Request] = []
        for start in range(0, len(data), 65_536):
            requests += self.server.received(connection, data[start : start + 65_536])
        return requests[0]

    def _future(self) -> asyncio.Future[messages.Reply]:
        return asyncio.Future(loop=_LOOP)


_LOOP = asyncio.new_event_loop()


def _identities(authority: Authority, store: Store, folder: Path, devices: int) -> list[tuple[str, str]]:
    """Certificate and key files of enrolled devices."""
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    found = []
    for index in range(devices):
        key = Ed25519PrivateKey.generate()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
        device, public, certificate = authority.issue(request.public_bytes(Encoding.DER))
        store.add_device(device, device, public, certificate, 0.0)
        names = folder / f"{index}.crt", folder / f"{index}.key"
        names[0].write_text(ssl.DER_cert_to_PEM_cert(certificate))
        names[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        found.append((str(names[0]), str(names[1])))
    return found


def round_cpu(devices: int, parameters: int, *, rounds: int) -> dict[str, object]:
    """The coordinator's CPU for a round of ``devices`` that contribute int8 updates of ``parameters``."""
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), devices, parameters)
        update = np.zeros(bench.size, np.int8)
        update[:1000] = 1
        tensor = Tensor.of(update)
        costs = []
        for number in range(1, rounds + 1):
            bench.spent_s = 0.0
            offers = bench.ask([GetTask(0.0)] * devices)
            assert all(isinstance(offer, Offer) and offer.round == number for offer in offers)
            receipts = bench.ask(
                [Contribute("cpu", number, f"{number:08d}-{index:06d}", tensor) for index in range(devices)]
            )
            assert all(getattr(receipt, "status", "") == "accepted" for receipt in receipts)
            bench.ask([GetTask(0.0)] * devices)
            assert bench.server.service.closed == number
            costs.append(bench.spent_s)
        bench.store.close()
    return _case(f"round of {devices} devices, {parameters:,} parameters: coordinator CPU", min(costs), None)


def _case(name: str, ours: float, peer: float | None) -> dict[str, object]:
    case: dict[str, object] = {"case": name, "ours": ours, "unit": "s"}
    if peer is not None:
        case |= {"peer": peer, "ratio": ours / peer, "peer_name": _PEER}
    return case
