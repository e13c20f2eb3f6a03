"""What a device and a coordinator say to each other: frozen dataclasses, parsed once.

A device asks, the coordinator answers every request with exactly one message, in order. Every request may be
repeated: a contribution is known by its release id, and the answer to a repeated one is the answer to the first.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Literal

from edge_runtime import wire
from edge_runtime.errors import RemoteError
from edge_runtime.params import Tensor
from edge_runtime.tables import Range, from_mapping, to_mapping
from edge_runtime.task import Task

PROTOCOL = 1
MAX_MESSAGE_BYTES = 80 * 1024 * 1024  # 2^24 float32 parameters and some
MAX_UNAUTHENTICATED_BYTES = 16 * 1024

Text = Annotated[str, Range(0, 400)]
Identifier = Annotated[str, Range(1, 80)]
RoundNumber = Annotated[int, Range(1, 1_000_000)]


@dataclass(frozen=True)
class GetAuthority:
    """A device that holds a join code asks for the certificate whose hash the code names. No certificate needed."""


@dataclass(frozen=True)
class Authority:
    certificate: Annotated[bytes, Range(1, 8192)]  # DER


@dataclass(frozen=True)
class Enrol:
    """A join code's one-time secret and a certificate request (PKCS #10, DER) for the key the device made."""

    secret: Annotated[bytes, Range(16, 64)]
    request: Annotated[bytes, Range(1, 4096)]
    name: Annotated[str, Range(1, 40)]


@dataclass(frozen=True)
class Enrolled:
    device: Identifier
    certificate: Annotated[bytes, Range(1, 8192)]  # DER


@dataclass(frozen=True)
class Hello:
    """First on every connection of an enrolled device."""

    protocol: Annotated[int, Range(0, 1_000_000)]
    software: Text
    link: Literal["tcp", "serial"]


@dataclass(frozen=True)
class Welcome:
    device: Identifier
    name: Text


@dataclass(frozen=True)
class GetTask:
    """``wait_s``: how long the coordinator may hold the answer while there is nothing to do."""

    wait_s: Annotated[float, Range(0, 300)]


@dataclass(frozen=True)
class Offer:
    """Take part in ``round``: train from ``params`` (P,) float32 and contribute once.

    ``spec`` is the task as :func:`encode_task` writes it. It is the same bytes in every round, so each side parses it
    once.
    """

    task_id: Identifier
    round: RoundNumber
    cohort: Annotated[int, Range(1, 1_000_000)]
    spec: Annotated[bytes, Range(1, 1 << 20)]
    params: Tensor

    @property
    def task(self) -> Task:
        """Raises RemoteError when ``spec`` is not a task; :func:`decode` has checked it."""
        return decode_task(self.spec)


@dataclass(frozen=True)
class Wait:
    retry_s: Annotated[float, Range(0, 86_400)]


@dataclass(frozen=True)
class Finished:
    task_id: Identifier
    reason: Text


@dataclass(frozen=True)
class Metrics:
    """How the offered model does on the device's own data; leaves only under tasks without privacy."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Contribute:
    """A device's update for a round: integers on the task's grid, or float32 and a weight under tasks without noise."""

    task_id: Identifier
    round: RoundNumber
    release_id: Annotated[str, Range(8, 64)]
    update: Tensor
    examples: Annotated[int, Range(1, 1_000_000_000)] | None = None
    metrics: Metrics | None = None


@dataclass(frozen=True)
class Decline:
    """The device will not take part in a round, and why."""

    task_id: Identifier
    round: RoundNumber
    code: Literal["budget_spent", "policy", "data", "task"]
    reason: Text


@dataclass(frozen=True)
class Receipt:
    """``accepted``: counted, durably. ``late``: the round closed without it. ``noted``: a decline was taken down."""

    release_id: Text
    status: Literal["accepted", "late", "noted"]


@dataclass(frozen=True)
class Refusal:
    """The request was not carried out; ``fault`` says who has to change something before it can be."""

    fault: Literal["device", "coordinator"]
    code: Identifier
    reason: Text


Request = GetAuthority | Enrol | Hello | GetTask | Contribute | Decline
Reply = Authority | Enrolled | Welcome | Offer | Wait | Finished | Receipt | Refusal
Message = Request | Reply

_KINDS: dict[str, type[Message]] = {
    "authority?": GetAuthority,
    "authority": Authority,
    "enrol?": Enrol,
    "enrolled": Enrolled,
    "hello?": Hello,
    "welcome": Welcome,
    "task?": GetTask,
    "offer": Offer,
    "wait": Wait,
    "finished": Finished,
    "contribute?": Contribute,
    "decline?": Decline,
    "receipt": Receipt,
    "refusal": Refusal,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """The message as CBOR: a list of its kind and its members."""
    return wire.encode([_NAMES[type(message)], to_mapping(message)])


def decode(data: bytes, *, peer: str) -> Message:
    """The message in ``data``; ``peer`` names the sender in errors. Raises RemoteError for anything that is not one."""
    value = wire.decode(data)
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in _KINDS):
        raise RemoteError(f"{peer} sent something that is not a message of protocol {PROTOCOL}")
    kind = _KINDS[value[0]]
    message = from_mapping(kind, value[1], where=f"{kind.__name__} from {peer}", error=RemoteError)
    if isinstance(message, Offer):
        decode_task(message.spec)
    return message


def encode_task(task: Task) -> bytes:
    """The task as CBOR."""
    return wire.encode(to_mapping(task))


@functools.lru_cache(maxsize=4)
def decode_task(spec: bytes) -> Task:
    """The task that :func:`encode_task` wrote. Raises RemoteError for anything else."""
    return from_mapping(Task, wire.decode(spec), where="the task", error=RemoteError)


def printable(text: str) -> str:
    """A peer's text without control characters: it is shown on the owner's terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
