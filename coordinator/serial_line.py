"""One serial line of the coordinator: the same conversation as over TCP, on the reliable link of ``firmware_bridge``.

A line has no connections to accept: a conversation ends when the device's end of the link starts anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edge_runtime import messages
from edge_runtime.errors import RemoteError
from edge_runtime.transports import serial_address
from edge_runtime.transports.serial import STREAM
from firmware_bridge.line import LinkPort, PeerResetError

if TYPE_CHECKING:
    from coordinator.server import Connection, Server

log = logging.getLogger("fedge.coordinator")

_WRITE_S = 600.0  # an unplugged line is waited for this long


async def serve_line(server: Server, address: str) -> None:
    """Serve ``PORT[@BAUD]`` until cancelled; a port that is missing is waited for."""
    name, baud = serial_address(address)
    loop = asyncio.get_running_loop()
    port = LinkPort(name, baud=baud, identity=b"fedge-coordinator", wait_for_port=True)
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"serve {name}")

    async def blocking(call: Callable[..., Any], *args: Any) -> Any:
        return await loop.run_in_executor(pool, call, *args)

    try:
        while True:
            connection = server.new_connection("serial")
            try:
                await _converse(server, connection, port, blocking)
            except PeerResetError:
                pass
            except RemoteError as fault:
                log.info("%s: %s", connection.peer.name if connection.peer else name, fault)
                await _until_reset(port, blocking)
            finally:
                server.left(connection)
    finally:
        port.close()
        pool.shutdown(wait=False)


async def _converse(
    server: Server, connection: Connection, port: LinkPort, blocking: Callable[..., Awaitable[Any]]
) -> None:
    channel = connection.channel
    while not channel.closed:
        data = await blocking(port.read, STREAM, None)
        try:
            received = server.received(connection, data) if data else []
        finally:
            await _write(port, channel.bytes_to_send(), blocking)
        for request in received:
            channel.send(messages.encode(await server.answer(connection, request)))
            await _write(port, channel.bytes_to_send(), blocking)
    raise RemoteError("hung up")


async def _write(port: LinkPort, data: bytes, blocking: Callable[..., Awaitable[Any]]) -> None:
    if data and await blocking(port.write, STREAM, data, _WRITE_S) < len(data):
        raise RemoteError("the line did not take the answer; the device will ask again")


async def _until_reset(port: LinkPort, blocking: Callable[..., Awaitable[Any]]) -> None:
    """Drop what is left of a conversation that is over."""
    try:
        while True:
            await blocking(port.read, STREAM, None)
    except PeerResetError:
        pass
