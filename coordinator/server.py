"""The thin shell around the service: TCP connections and serial lines in, one queue, one writer, one transaction per
batch.

Whatever arrived while the last transaction was on its way to the disk goes into the next one (group commit), so a
thousand devices share the price of an fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.service import Peer, Service
from coordinator.store import Store
from edge_runtime import messages
from edge_runtime.channel import Channel
from edge_runtime.errors import DeviceFault, RemoteError
from edge_runtime.messages import MAX_MESSAGE_BYTES, MAX_UNAUTHENTICATED_BYTES, GetTask, Refusal, Reply, Request, Wait

log = logging.getLogger("fedge.coordinator")

_READ_BYTES = 65_536
_STRANGER_S = 15.0  # a connection that has not shown a certificate or an invitation by then is closed
_QUIET_S = 600.0
_LONGEST_HOLD_S = 60.0
_MAX_CONNECTIONS = 20_000
_MAX_STRANGERS = 256
_SHOW_S = 0.2


@dataclass
class Connection:
    """One TLS conversation and who is at its other end."""

    link: str
    channel: Channel
    peer: Peer | None = None
    counted_up: int = 0
    counted_down: int = 0


@dataclass
class _Question:
    connection: Connection
    request: Request
    answer: asyncio.Future[Reply]


class Server:
    """Serves one task. ``make_service`` reads the state back from the store, at the start and after a failed
    transaction; ``show``
    is called a few times a second while things happen.
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
        self._questions: list[_Question] = []
        self._work = asyncio.Event()
        self._changed = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self.address: tuple[str, int] | None = None

    async def run(self, host: str, port: int, *, serial_ports: tuple[str, ...] = (), linger_s: float = 3.0) -> str:
        """Serve until the task is finished, then ``linger_s`` longer so that devices hear of it; the reason.

        Raises DeviceFault when the address cannot be bound.
        """
        try:
            listener = await asyncio.start_server(self._accept, host, port, backlog=1024)
        except OSError as fault:
            raise DeviceFault(
                f"cannot listen on {host}:{port}: {fault.strerror or fault}; choose another --listen"
            ) from None
        self.address = listener.sockets[0].getsockname()[:2]
        log.info("listening on %s:%s", *self.address)
        lines = [asyncio.create_task(self._serve_line(port)) for port in serial_ports]
        lines.append(asyncio.create_task(self._show_news()))
        try:
            await self._write_until_finished()
            writer = asyncio.create_task(self._write_forever())
            await asyncio.sleep(linger_s)
            writer.cancel()
        finally:
            listener.close()
            for task in [*lines, *self._connections]:
                task.cancel()
            await asyncio.gather(*lines, *self._connections, return_exceptions=True)
        return self.service.finished_because or "stopped"

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _MAX_CONNECTIONS or self._strangers >= _MAX_STRANGERS:
            writer.close()
            return
        self._connections.add(task)
        connection = self.new_connection("tcp")
        try:
            await self._converse_tcp(connection, reader, writer)
        except (RemoteError, OSError, asyncio.IncompleteReadError) as fault:
            log.info("%s: %s", self._named(connection, writer), fault)
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            self.left(connection)
            with contextlib.suppress(OSError):
                writer.close()

    def new_connection(self, link: str) -> Connection:
        return Connection(link, Channel(self._context, server_side=True, max_message_bytes=MAX_UNAUTHENTICATED_BYTES))

    async def _converse_tcp(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._strangers += 1
        stranger = True
        stranger_until_s = self._clock() + _STRANGER_S
        try:
            while not connection.channel.closed:
                if stranger and connection.peer is not None and connection.peer.device is not None:
                    stranger = False
                    self._strangers -= 1
                patience_s = stranger_until_s - self._clock() if stranger else _QUIET_S
                try:
                    data = await asyncio.wait_for(reader.read(_READ_BYTES), max(patience_s, 0))
                except TimeoutError:
                    raise RemoteError("said nothing for too long") from None
                try:
                    received = self.received(connection, data)
                finally:  # a TLS alert tells the other side what was wrong
                    writer.write(connection.channel.bytes_to_send())
                for request in received:
                    reply = await self.answer(connection, request)
                    connection.channel.send(messages.encode(reply))
                    writer.write(connection.channel.bytes_to_send())
                    await asyncio.wait_for(writer.drain(), _QUIET_S)
                if not data:
                    return
        finally:
            self._strangers -= stranger

    def received(self, connection: Connection, data: bytes) -> list[Request]:
        """Decrypted requests in ``data``; the first one settles who the peer is."""
        arrived = connection.channel.receive(data)
        if connection.peer is None and connection.channel.established:
            connection.peer = self._identify(connection.channel.peer_certificate)
            if connection.peer.device is not None:
                connection.channel.max_message_bytes = MAX_MESSAGE_BYTES
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

    async def answer(self, connection: Connection, request: Request) -> Reply:
        """The service's answer, once it is durable; a question for work is held while there is none."""
        hold_s = min(request.wait_s, _LONGEST_HOLD_S) if isinstance(request, GetTask) else 0.0
        until_s = self._clock() + hold_s
        while True:
            version = self.service.version  # read before asking: a change in between must not be slept through
            reply = await self._ask(connection, request)
            left_s = until_s - self._clock()
            if not isinstance(reply, Wait) or left_s <= 0:
                return reply
            await self._change(version, left_s)

    async def _ask(self, connection: Connection, request: Request) -> Reply:
        question = _Question(connection, request, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        self._work.set()
        return await question.answer

    async def _change(self, version: int, timeout_s: float) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.service.version != version), timeout_s)

    def left(self, connection: Connection) -> None:
        if connection.peer is not None and connection.peer.device is not None:
            self.service.left(connection.peer.device)

    def _named(self, connection: Connection, writer: asyncio.StreamWriter) -> str:
        if connection.peer is not None:
            return connection.peer.name
        address = writer.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "a connection"

    # Serial lines

    async def _serve_line(self, address: str) -> None:
        from coordinator.serial_line import serve_line

        await serve_line(self, address)

    # The one writer

    async def _write_until_finished(self) -> None:
        self._step()
        while self.service.finished_because is None:
            await self._wait_for_work()
            self._step()
            await self._notify()

    async def _write_forever(self) -> None:
        while True:
            await self._wait_for_work()
            self._step()
            await self._notify()

    async def _wait_for_work(self) -> None:
        wakeup_s = self.service.wakeup_at_s
        timeout_s = None if wakeup_s is None else max(wakeup_s - self._clock(), 0.01)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), timeout_s)
        self._work.clear()

    def _step(self) -> None:
        """One transaction: every waiting question, and whatever has become due."""
        questions, self._questions = self._questions, []
        now_s = self._clock()
        version = self.service.version
        try:
            with self._store.transaction():
                replies = [self.service.handle(self._peer(q.connection), q.request, now_s) for q in questions]
                for question in questions:
                    self._count_traffic(question.connection, now_s)
                self.service.tick(now_s)
        except DeviceFault as fault:
            log.error("%s; nothing was acknowledged, devices will ask again", fault)
            self.service = self._make_service(now_s)
            refusal = Refusal(
                "coordinator", "storage", "the coordinator cannot write to its disk at the moment; try again later"
            )
            replies = [refusal for _ in questions]
        for question, reply in zip(questions, replies, strict=True):
            if not question.answer.done():
                question.answer.set_result(reply)
        self._news |= bool(questions) or self.service.version != version

    async def _show_news(self) -> None:
        while True:
            if self._news:
                self._news = False
                self._show(self.service)
            await asyncio.sleep(_SHOW_S)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _peer(self, connection: Connection) -> Peer:
        return connection.peer or Peer(None, "a stranger")

    def _count_traffic(self, connection: Connection, now_s: float) -> None:
        peer, channel = connection.peer, connection.channel
        if peer is None or peer.device is None:
            return
        up, down = channel.bytes_received - connection.counted_up, channel.bytes_sent - connection.counted_down
        connection.counted_up, connection.counted_down = channel.bytes_received, channel.bytes_sent
        self._store.note_traffic(peer.device, link=connection.link, now_s=now_s, bytes_up=up, bytes_down=down)
