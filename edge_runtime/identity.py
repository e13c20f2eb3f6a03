"""Who this device is: an Ed25519 key made here and never shown, its certificate, and the one authority it trusts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from edge_runtime.channel import Channel, client_context, unverified_context
from edge_runtime.conversation import Conversation
from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError, RemoteError
from edge_runtime.join_code import HASH_BYTES, JoinCode
from edge_runtime.ledger import Ledger
from edge_runtime.messages import (
    MAX_UNAUTHENTICATED_BYTES,
    Authority,
    Enrol,
    Enrolled,
    GetAuthority,
    Refusal,
    printable,
)
from edge_runtime.tables import Range, from_mapping, to_mapping, to_toml
from edge_runtime.transports import open_pipe

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Home:
    """The folder of one device's state; only its owner can read it."""

    path: Path

    @property
    def key(self) -> Path:
        return self.path / "device.key"

    @property
    def certificate(self) -> Path:
        return self.path / "device.crt"

    @property
    def authority(self) -> Path:
        return self.path / "authority.crt"

    @property
    def membership(self) -> Path:
        return self.path / "membership.toml"

    @property
    def policy(self) -> Path:
        return self.path / "policy.toml"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def extractors(self) -> Path:
        """Frozen LiteRT models that tasks may run on the data; only the owner puts files there."""
        return self.path / "extractors"


@dataclass(frozen=True)
class Membership:
    """Which fleet the device belongs to. The presence of this file means that joining was completed."""

    device: Annotated[str, Range(1, 80)]
    name: Annotated[str, Range(1, 40)]
    address: Annotated[str, Range(1, 200)]
    data: Annotated[str, Range(0, 400)] = ""


def load_membership(home: Home) -> Membership:
    """Raises LocalError when the device has not joined a fleet yet."""
    if not home.membership.exists():
        raise LocalError(f"{home.path} has not joined a fleet; do so with: fedge device join CODE --home {home.path}")
    try:
        return from_mapping(
            Membership, tomllib.loads(home.membership.read_text(encoding="utf-8")), where=str(home.membership)
        )
    except (OSError, ValueError) as fault:  # not UTF-8, not TOML, or a number of thousands of digits
        raise LocalError(f"cannot read {home.membership}: {fault}; restore it or join again") from None


def device_context(home: Home) -> ssl.SSLContext:
    """TLS as this device, trusting only its fleet's authority."""
    try:
        return client_context(certificate=str(home.certificate), key=str(home.key), authority=str(home.authority))
    except (OSError, ssl.SSLError) as fault:
        raise LocalError(f"the identity in {home.path} cannot be used: {fault}; restore it or join again") from None


def join(home: Home, code: JoinCode, *, name: str, address: str | None = None, data: str = "") -> Membership:
    """Enrol this device with the coordinator that wrote ``code``.

    Two connections: the first fetches the authority's certificate and checks it against the code's hash, the second
    trusts only that authority and shows the one-time secret to nobody else. May be repeated after a crash at any
    point: the key stays, and the coordinator answers the same key with the same identity. A release that still waits
    for another authority's receipt is given up, for it was not meant for this one. Raises RemoteError when the
    coordinator refuses or is not the one the code names; LocalError when the device belongs to a fleet already.
    """
    if home.membership.exists():
        raise LocalError(
            f"{home.path} belongs to a fleet already; a second one takes another --home, "
            "whose ledger knows nothing of this one: over the same data, give it with --budget only what is left"
        )
    if not (name.strip() and name.isprintable() and len(name) <= 40):
        raise LocalError(f"the name {name[:60]!r} does not do: want 1..40 characters that can be printed")
    target = address or code.address
    _check_that_it_can_be_kept(Membership("to be given", name, target, data))
    make_directory(home.path)
    authority = ssl.DER_cert_to_PEM_cert(_fetch_authority(target, code)).encode()
    if home.ledger.exists() and not (home.authority.exists() and home.authority.read_bytes() == authority):
        with contextlib.closing(Ledger(home.ledger, create=False)) as ledger:
            ledger.refuse_unacknowledged()
    write_file(home.authority, authority)
    request = _certificate_request(_own_key(home), name)
    context = client_context(certificate=None, key=None, authority=str(home.authority))
    match _ask_once(target, context, Enrol(code.secret, request, name)):
        case Enrolled(device, certificate):
            if not (device.isascii() and device.isprintable()):
                raise RemoteError("the coordinator gave this device an id that cannot be printed")
            write_file(home.certificate, ssl.DER_cert_to_PEM_cert(certificate).encode())
        case Refusal(_, _, reason):
            raise RemoteError(f"the coordinator did not take this device: {printable(reason)}")
        case other:
            raise RemoteError(f"the coordinator answered with {type(other).__name__} instead of a certificate")
    try:
        device_context(home)
    except LocalError:
        raise RemoteError("the coordinator sent a certificate that does not belong to this device's key") from None
    Ledger(home.ledger, create=True).close()
    membership = Membership(device, name, target, data)
    save_membership(home, membership)
    return membership


def _check_that_it_can_be_kept(membership: Membership) -> None:
    """Before anybody is asked: a device that joined and cannot read its membership afterwards is in no fleet."""
    try:
        from_mapping(Membership, to_mapping(membership), where="joining")
        to_toml(membership).encode()
    except UnicodeEncodeError:
        raise LocalError("the path of the data, or the link, is not valid UTF-8: rename the file") from None


def save_membership(home: Home, membership: Membership) -> None:
    """Write the membership."""
    write_file(home.membership, to_toml(membership).encode())


def _fetch_authority(target: str, code: JoinCode) -> bytes:
    match _ask_once(target, unverified_context(), GetAuthority()):
        case Authority(certificate):
            if hashlib.sha256(certificate).digest()[:HASH_BYTES] != code.authority:
                raise RemoteError(
                    f"the coordinator at {target} is not the one that wrote this join code: nothing was told to it. "
                    "Ask its owner for a fresh code, or look for somebody in between"
                )
            return certificate
        case Refusal(_, _, reason):
            raise RemoteError(f"the coordinator at {target} refused: {printable(reason)}")
        case other:
            raise RemoteError(
                f"the coordinator at {target} answered with {type(other).__name__} instead of its authority"
            )


def _ask_once(target: str, context: ssl.SSLContext, request: GetAuthority | Enrol) -> object:
    channel = Channel(context, server_side=False, max_message_bytes=MAX_UNAUTHENTICATED_BYTES)
    conversation = Conversation(open_pipe(target), channel)
    try:
        return conversation.ask(request)
    finally:
        conversation.close()


def _own_key(home: Home) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    if home.key.exists():
        try:
            key = load_pem_private_key(home.key.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as fault:
            raise LocalError(f"{home.key} cannot be read: {fault}; restore it, or remove it to join anew") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise LocalError(f"{home.key} is not an Ed25519 key")
        return key
    key = Ed25519PrivateKey.generate()
    write_file(home.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _certificate_request(key: Ed25519PrivateKey, name: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None).public_bytes(Encoding.DER)


def default_home() -> Path:
    """``$FEDGE_DEVICE_HOME``, or ``~/.fedge/device``."""
    return Path(os.environ.get("FEDGE_DEVICE_HOME") or Path.home() / ".fedge" / "device")
