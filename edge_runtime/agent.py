"""The device process: connect, converse, and come back after whatever went wrong."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator

from edge_runtime.channel import Channel
from edge_runtime.conversation import Conversation
from edge_runtime.device import Device
from edge_runtime.errors import DeviceFault, RemoteError
from edge_runtime.identity import Home, device_context
from edge_runtime.messages import MAX_MESSAGE_BYTES
from edge_runtime.transports import open_pipe

log = logging.getLogger("fedge.device")

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0
_MAX_REST_S = 3600.0


def run(device: Device, home: Home, address: str, *, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> str:
    """Serve the fleet until the task is finished; the coordinator's reason.

    A coordinator that is away, restarts, breaks off or talks nonsense is asked again after 0.5 s, doubling to 30 s,
    with jitter, and so is a serial port that is unplugged. A DeviceFault of the ledger and any LocalError end the run:
    nothing on the line can mend them.
    """
    retry_s = _FIRST_RETRY_S
    while True:
        try:
            conversation = connect(home, address)
        except (RemoteError, DeviceFault) as fault:
            log.warning("%s; trying again in about %.1f s", fault, retry_s)
        else:
            try:
                device.connected()
                for answers, _ in enumerate(_converse(device, conversation, wait_s=wait_s, sleep=sleep), start=1):
                    if answers > 1:  # after the greeting: one that greets and then refuses is asked ever less often
                        retry_s = _FIRST_RETRY_S
            except RemoteError as fault:
                log.warning("%s; trying again in about %.1f s", fault, retry_s)
            finally:
                conversation.close()
        if device.finished_because is not None:
            return device.finished_because
        sleep(retry_s * random.uniform(0.75, 1.25))
        retry_s = min(2 * retry_s, _LAST_RETRY_S)


def connect(home: Home, address: str) -> Conversation:
    """A conversation with the coordinator at ``address``, as this device.

    Raises RemoteError when nobody answers there, DeviceFault when the serial port is not there, LocalError when the
    identity or the address cannot be used.
    """
    context = device_context(home)
    pipe = open_pipe(address)
    return Conversation(pipe, Channel(context, server_side=False, max_message_bytes=MAX_MESSAGE_BYTES))


def _converse(
    device: Device, conversation: Conversation, *, wait_s: float, sleep: Callable[[float], None]
) -> Iterator[None]:
    """Ask and hear until the task is finished; yields after every answer that was one."""
    while device.finished_because is None:
        before = device.state
        request = device.request(time.time())
        if request is None:
            sleep(min(max(device.wakeup_at_s - time.time(), 0.01), _MAX_REST_S))
            continue
        device.receive(conversation.ask(request, patience_s=wait_s), time.time())
        if device.state is not before:
            log.debug("%s -> %s", before, device.state)
        yield
