"""The thin shell around the service: TCP connections and serial lines in, one queue, one writer, one transaction per
batch.

Whatever arrived while the last transaction was on its way to the disk goes into the next one (group commit), so a
thousand devices share the price of an fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.service import Peer, Service
from coordinator.store import Store
from edge_runtime import messages
from edge_runtime.channel import Channel
from edge_runtime.errors import DeviceFault, FedgeError, RemoteError
from edge_runtime.messages import MAX_UNAUTHENTICATED_BYTES, GetTask, Offer, Refusal, Reply, Request, Wait

log = logging.getLogger("fedge.coordinator")

_READ_BYTES = 65_536
_STRANGER_S = 15.0  # a connection that has not shown a certificate or an invitation by then is closed
_QUIET_S = 600.0
_LONGEST_HOLD_S = 60.0
_MAX_CONNECTIONS = 20_000
_MAX_STRANGERS = 512
_MAX_PER_DEVICE = 4  # the agent, a look with `doctor`, and what a dead network has not told us of
_OVERHEAD_BYTES = 64 * 1024  # a message beyond its tensor
_COUNT_EVERY_S = 20.0
_SHOW_S = 0.2
_PAUSE_S = 1.0  # after a failure: the next attempt
_STORAGE = Refusal("coordinator", "storage", "the coordinator cannot write to its disk at the moment; try again later")
_INTERNAL = Refusal("coordinator", "internal", "the coordinator failed on this request; its log says how")


@dataclass(eq=False)
class Connection:
    """One TLS conversation and who is at its other end. ``host``: where a stranger calls from."""

    link: str
    channel: Channel
    host: str = ""
    task: asyncio.Task[None] | None = None
    peer: Peer | None = None
    counted_up: int = 0
    counted_down: int = 0
    counted_at_s: float = 0.0


@dataclass
class _Question:
    connection: Connection
    request: Request
    answer: asyncio.Future[Reply]


class Strangers:
    """Connections of which nobody knows yet who they are.

    There is room for ``limit``. One more puts out the oldest of the host that has most, so that whoever opens many
    crowds out himself, and not the device whose handshake is under way.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._count = limit, 0
        self._by_host: dict[str, dict[Connection, None]] = {}  # a dict keeps the order of arrival

    def __len__(self) -> int:
        return self._count

    def add(self, connection: Connection) -> Connection | None:
        """Take in ``connection``; the one that has to go for it, if any."""
        victim = None
        if self._count >= self._limit:
            most = max(self._by_host, key=lambda host: len(self._by_host[host]))
            victim = next(iter(self._by_host[most]))
            self.discard(victim)
        self._by_host.setdefault(connection.host, {})[connection] = None
        self._count += 1
        return victim

    def discard(self, connection: Connection) -> None:
        """It has left, or is not a stranger any more."""
        there = self._by_host.get(connection.host, {})
        if connection in there:
            del there[connection]
            self._count -= 1
            if not there:
                del self._by_host[connection.host]


class Server:
    """Serves one task. ``make_service`` reads the state back from the store, at the start and after a failed
    transaction; ``show`` is called a few times a second while things happen.
    """

    def __init__(
        self,
        store: Store,
        make_service: Callable[[float], Service],
        context: ssl.SSLContext,
        *,
        show: Callable[[Service], None] = lambda service: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._make_service, self._context = store, make_service, context
        self._show, self._clock = show, clock
        self._news = False
        self.service = make_service(clock())
        self._stale = False  # the service does not know what the store holds: a transaction failed
        self._store_version = store.data_version
        self._max_message_bytes = store.largest_model_bytes() + _OVERHEAD_BYTES
        self._offer: tuple[Offer, bytes] | None = None
        self._questions: list[_Question] = []
        self._work = asyncio.Event()
        self._changed = asyncio.Event()  # set, and replaced, when the answer to a held question may be another
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers = Strangers(_MAX_STRANGERS)
        self._present: dict[str, list[Connection]] = {}  # every device's connections, oldest first
        self.address: tuple[str, int] | None = None

    async def run(self, host: str, port: int, *, serial_ports: tuple[str, ...] = (), linger_s: float = 3.0) -> str:
        """Serve until the task is finished, then ``linger_s`` longer so that devices hear of it; the reason.

        Raises DeviceFault when the address cannot be bound.
        """
        _allow_many_files()
        try:
            listener = await asyncio.start_server(self._accept, host, port, backlog=1024)
        except OSError as fault:
            raise DeviceFault(
                f"cannot listen on {host}:{port}: {fault.strerror or fault}; choose another --listen"
            ) from None
        self.address = listener.sockets[0].getsockname()[:2]
        log.info("listening on %s:%s", *self.address)
        background = [asyncio.create_task(self._serve_line(line)) for line in serial_ports]
        background.append(asyncio.create_task(self._show_news()))
        try:
            await self._write_until_finished()
            background.append(asyncio.create_task(self._write_forever()))
            await asyncio.sleep(linger_s)
        finally:
            listener.close()
            tasks = [*background, *self._connections]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.service.finished_because or "stopped"

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        address = writer.get_extra_info("peername")
        connection = self.new_connection("tcp", host=address[0] if address else "")
        connection.task = task
        self._connections.add(task)
        victim = self._strangers.add(connection)
        if victim is not None and victim.task is not None:
            victim.task.cancel()
        _keep_alive(writer)
        try:
            await self._converse_tcp(connection, reader, writer)
        except (RemoteError, OSError, asyncio.IncompleteReadError) as fault:
            log.info("%s: %s", self._named(connection, writer), fault)
        except asyncio.CancelledError:
            pass
        except Exception:  # a mistake of ours costs one connection, not the fleet
            log.exception("%s: the connection is closed", self._named(connection, writer))
        finally:
            self._connections.discard(task)
            self.left(connection)
            with contextlib.suppress(OSError):
                writer.close()

    def new_connection(self, link: str, *, host: str = "") -> Connection:
        channel = Channel(self._context, server_side=True, max_message_bytes=MAX_UNAUTHENTICATED_BYTES)
        return Connection(link, channel, host)

    async def _converse_tcp(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        stranger_until_s = loop.time() + _STRANGER_S
        channel = connection.channel
        reading = loop.create_task(reader.read(_READ_BYTES))
        try:
            while not channel.closed:
                known = connection.peer is not None and connection.peer.device is not None
                await asyncio.wait({reading}, timeout=_QUIET_S if known else max(stranger_until_s - loop.time(), 0))
                if not reading.done():
                    raise RemoteError("said nothing for too long")
                data = reading.result()
                try:
                    received = self.received(connection, data)
                finally:  # a TLS alert tells the other side what was wrong
                    writer.write(channel.bytes_to_send())
                if not data:
                    return
                # One piece is read ahead, no more: it tells a peer that hung up from one that waits.
                reading = loop.create_task(reader.read(_READ_BYTES))
                for request in received:
                    reply = await self._answer_unless_gone(connection, request, reading)
                    if reply is None:
                        return
                    await self._send(connection, reply, writer)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reading

    async def _answer_unless_gone(
        self, connection: Connection, request: Request, reading: asyncio.Task[bytes]
    ) -> Reply | None:
        """The answer; None when the peer hangs up while a question for work is held."""
        if not (isinstance(request, GetTask) and request.wait_s > 0):
            return await self.answer(connection, request)
        answering = asyncio.ensure_future(self.answer(connection, request))
        try:
            await asyncio.wait({answering, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and (reading.exception() is not None or not reading.result()):
                return None
            return await answering
        finally:
            answering.cancel()

    async def _send(self, connection: Connection, reply: Reply, writer: asyncio.StreamWriter) -> None:
        for piece in connection.channel.pieces(self.encoded(reply)):
            writer.write(piece)
            async with asyncio.timeout(_QUIET_S):
                await writer.drain()

    def encoded(self, reply: Reply) -> bytes:
        """The reply's bytes; those of a round's offer are made once."""
        if not isinstance(reply, Offer):
            return messages.encode(reply)
        if self._offer is None or self._offer[0] is not reply:
            self._offer = (reply, messages.encode(reply))
        return self._offer[1]

    def received(self, connection: Connection, data: bytes) -> list[Request]:
        """Decrypted requests in ``data``; the first one settles who the peer is."""
        arrived = connection.channel.receive(data)
        if connection.peer is None and connection.channel.established:
            connection.peer = self._identify(connection.channel.peer_certificate)
            if connection.peer.device is not None:
                self._arrived(connection, connection.peer.device)
        requests = []
        for message in arrived:
            request = messages.decode(message, peer=connection.peer.name if connection.peer else "a stranger")
            if not isinstance(request, Request):
                raise RemoteError(f"sent {type(request).__name__}, which only a coordinator sends")
            requests.append(request)
        return requests

    def _identify(self, certificate: bytes | None) -> Peer:
        if certificate is None:
            return Peer(None, "a device without a certificate")
        row = self._store.device_of_certificate(certificate)
        if row is None or row.revoked:
            return Peer(None, "a device that is not in this fleet", removed=True)
        return Peer(row.device, row.name)

    def _arrived(self, connection: Connection, device: str) -> None:
        self._strangers.discard(connection)
        connection.channel.max_message_bytes = self._max_message_bytes
        there = self._present.setdefault(device, [])
        there.append(connection)
        if len(there) > _MAX_PER_DEVICE and there[0].task is not None:
            there[0].task.cancel()

    async def answer(self, connection: Connection, request: Request) -> Reply:
        """The service's answer, once it is durable; a question for work is held while there is none."""
        loop = asyncio.get_running_loop()
        hold_s = min(request.wait_s, _LONGEST_HOLD_S) if isinstance(request, GetTask) else 0.0
        until_s = loop.time() + hold_s
        while True:
            changed = self._changed  # looked at before asking: a change in between must not be slept through
            reply = await self._ask(connection, request)
            if not isinstance(reply, Wait) or loop.time() >= until_s:
                return reply
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await changed.wait()

    async def _ask(self, connection: Connection, request: Request) -> Reply:
        question = _Question(connection, request, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        self._work.set()
        return await question.answer

    def left(self, connection: Connection) -> None:
        """The conversation is over. The device is gone only with its last one."""
        self._strangers.discard(connection)
        device = connection.peer.device if connection.peer is not None else None
        if device is None or connection not in self._present.get(device, ()):
            return
        self._present[device].remove(connection)
        if not self._present[device]:
            del self._present[device]
            self.service.left(device)

    def _named(self, connection: Connection, writer: asyncio.StreamWriter) -> str:
        if connection.peer is not None:
            return connection.peer.name
        address = writer.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "a connection"

    # Serial lines

    async def _serve_line(self, address: str) -> None:
        from coordinator.serial_line import serve_line

        while True:
            try:
                await serve_line(self, address)
            except FedgeError as fault:
                log.error("the line %s is out of service for a moment: %s", address, fault)
            except Exception:
                log.exception("the line %s is out of service for a moment", address)
            await asyncio.sleep(5 * _PAUSE_S)

    # The one writer

    async def _write_until_finished(self) -> None:
        self._step()
        while self._stale or self.service.finished_because is None:
            await self._wait_for_work()
            self._step()

    async def _write_forever(self) -> None:
        while True:
            await self._wait_for_work()
            self._step()

    async def _wait_for_work(self) -> None:
        now_s = self._clock()
        wakeup_s = now_s + _PAUSE_S if self._stale else self.service.wakeup_at_s(now_s)
        timeout_s = None if wakeup_s is None else max(wakeup_s - now_s, 0.01)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._work.wait()
        self._work.clear()

    def _step(self) -> None:
        """One transaction: every waiting question, and whatever has become due."""
        questions, self._questions = self._questions, []
        now_s = self._clock()
        before = self.service, self.service.version
        try:
            replies = self._transact(questions, now_s)
        except DeviceFault as fault:
            log.error("%s; nothing was acknowledged, devices will ask again", fault)
            self._restore(now_s)
            replies = [_STORAGE for _ in questions]
        except Exception:
            log.exception("a request or a round failed; trying them one by one")
            self._restore(now_s)
            replies = self._one_by_one(questions, now_s)
        for question, reply in zip(questions, replies, strict=True):
            if not question.answer.done():
                question.answer.set_result(reply)
        if before != (self.service, self.service.version):
            self._changed.set()
            self._changed = asyncio.Event()
            self._news = True
        self._news |= bool(questions)

    def _transact(self, questions: list[_Question], now_s: float, *, tick: bool = True) -> list[Reply]:
        """The answers, on the disk. Raises, having changed nothing, when that cannot be."""
        if self._stale:
            self._restore(now_s)
        if self._stale:
            raise DeviceFault("the coordinator's store cannot be read")
        with self._store.transaction():
            if self._store_version != (version := self._store.data_version):
                self._store_version = version
                self.service.fleet_changed(now_s)
            replies = [self.service.handle(self._peer(q.connection), q.request, now_s) for q in questions]
            for question in questions:
                self._count_traffic(question, now_s)
            if tick:
                self.service.tick(now_s)
        return replies

    def _one_by_one(self, questions: list[_Question], now_s: float) -> list[Reply]:
        """Find out which request the service cannot stand, and answer the others."""
        replies: list[Reply] = []
        for question in questions:
            try:
                replies += self._transact([question], now_s, tick=False)
            except DeviceFault:
                self._restore(now_s)
                replies.append(_STORAGE)
            except Exception:
                log.exception("%s from %s", type(question.request).__name__, self._peer(question.connection).name)
                self._restore(now_s)
                replies.append(_INTERNAL)
        try:
            self._transact([], now_s)
        except Exception:
            log.exception("the round cannot go on")
            self._stale = True
        return replies

    def _restore(self, now_s: float) -> None:
        """After a failed transaction the service is ahead of the store: make it anew from there, if not now, then
        before it is asked again.
        """
        self._stale = True
        try:
            self.service = self._make_service(now_s)
            self._stale = False
        except Exception as fault:
            log.error("the store cannot be read: %s", fault)

    async def _show_news(self) -> None:
        while True:
            if self._news:
                self._news = False
                try:
                    self._show(self.service)
                except Exception:  # a terminal that has gone away, a store that cannot be read just now
                    log.exception("the run cannot be shown")
            await asyncio.sleep(_SHOW_S)

    def _peer(self, connection: Connection) -> Peer:
        return connection.peer or Peer(None, "a stranger")

    def _count_traffic(self, question: _Question, now_s: float) -> None:
        """Write down what the device has sent and received; not for every poll, so that waiting costs no disk."""
        connection = question.connection
        peer, channel = connection.peer, connection.channel
        if peer is None or peer.device is None:
            return
        if isinstance(question.request, GetTask) and now_s - connection.counted_at_s < _COUNT_EVERY_S:
            return
        up, down = channel.bytes_received - connection.counted_up, channel.bytes_sent - connection.counted_down
        connection.counted_up, connection.counted_down = channel.bytes_received, channel.bytes_sent
        connection.counted_at_s = now_s
        self._store.note_traffic(peer.device, link=connection.link, now_s=now_s, bytes_up=up, bytes_down=down)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Notice a device that lost its power within a minute, and not only when its question is answered."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _allow_many_files() -> None:
    """A connection is a file: the usual limit of 1024 is less than a fleet."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MAX_CONNECTIONS + 100 if hard == resource.RLIM_INFINITY else min(hard, _MAX_CONNECTIONS + 100)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
