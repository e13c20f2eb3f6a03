"""One serial line of the coordinator: the same conversation as over TCP, on the reliable link of ``firmware_bridge``.

A line has no connections to accept: a conversation ends when the device's end of the link starts anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import RemoteError
from edge_runtime.transports import serial_address
from edge_runtime.transports.serial import STREAM
from firmware_bridge.line import LineEvent, LinkPort, PeerResetError
from firmware_bridge.link import PeerReset

if TYPE_CHECKING:
    from coordinator.server import Connection, Server
    from edge_runtime.messages import Reply, Request

log = logging.getLogger("fedge.coordinator")

_WRITE_S = 600.0  # an unplugged line is waited for this long


async def serve_line(server: Server, address: str) -> None:
    """Serve ``PORT[@BAUD]`` until cancelled; a port that is missing is waited for."""
    name, baud = serial_address(address)
    await _Line(server, name, baud).serve()


class _Line:
    """A port, the thread that waits on it, and the conversation that goes on there."""

    def __init__(self, server: Server, name: str, baud: int) -> None:
        self._server, self._name = server, name
        self._loop = asyncio.get_running_loop()
        self._reset = asyncio.Event()  # the device began anew: whatever is held for it is held for nobody
        self._port = LinkPort(
            name, baud=baud, identity=b"fedge-coordinator", wait_for_port=True, on_event=self._line_event
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"serve {name}")

    async def serve(self) -> None:
        try:
            while True:
                connection = self._server.new_connection("serial")
                self._reset.clear()
                try:
                    await self._converse(connection)
                except PeerResetError:
                    pass
                except RemoteError as fault:
                    log.info("%s: %s", connection.peer.name if connection.peer else self._name, fault)
                    await self._until_reset()
                finally:
                    self._server.left(connection)
        finally:
            self._port.close()
            self._pool.shutdown(wait=False)

    def _line_event(self, event: LineEvent) -> None:
        """Called in the port's thread."""
        if isinstance(event, PeerReset) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._reset.set)

    async def _converse(self, connection: Connection) -> None:
        channel = connection.channel
        while not channel.closed:
            data = await self._blocking(self._port.read, STREAM, None)
            try:
                received = self._server.received(connection, data) if data else []
            finally:
                await self._write(channel.bytes_to_send())
            for request in received:
                for piece in channel.pieces(self._server.encoded(await self._answer(connection, request))):
                    await self._write(piece)
        raise RemoteError("hung up")

    async def _answer(self, connection: Connection, request: Request) -> Reply:
        """The answer. Raises PeerResetError when the device begins anew while a question of its is held."""
        answering = asyncio.ensure_future(self._server.answer(connection, request))
        try:
            while not answering.done():
                reset = asyncio.ensure_future(self._reset.wait())
                await asyncio.wait({answering, reset}, return_when=asyncio.FIRST_COMPLETED)
                reset.cancel()
                if self._reset.is_set():  # perhaps of a session before this one, told late: the port knows
                    self._reset.clear()
                    await self._blocking(self._port.write, STREAM, b"", 0.0)
            return await answering
        finally:
            answering.cancel()

    async def _write(self, data: bytes) -> None:
        if data and await self._blocking(self._port.write, STREAM, data, _WRITE_S) < len(data):
            raise RemoteError("the line did not take the answer; the device will ask again")

    async def _until_reset(self) -> None:
        """Drop what is left of a conversation that is over."""
        try:
            while True:
                await self._blocking(self._port.read, STREAM, None)
        except PeerResetError:
            pass

    async def _blocking(self, call: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._pool, call, *args)
