"""The fleet's certificate authority and its one-time invitations.

Keys are Ed25519, made here, never shown. A device's id is the hash of its public key: not its address, not its serial
port.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.channel import SERVER_NAME
from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError, RemoteError
from edge_runtime.join_code import HASH_BYTES

# A board without a clock wakes up in 1970: validity must not depend on the time of day, revocation is the store's.
_NOT_BEFORE = datetime.datetime(1970, 1, 1)
_NOT_AFTER = datetime.datetime(2099, 1, 1)


@dataclass(frozen=True)
class Paths:
    """The files of an authority inside a coordinator's home."""

    home: Path

    @property
    def authority_key(self) -> Path:
        return self.home / "authority.key"

    @property
    def authority(self) -> Path:
        return self.home / "authority.crt"

    @property
    def server_key(self) -> Path:
        return self.home / "server.key"

    @property
    def server(self) -> Path:
        return self.home / "server.crt"


class Authority:
    """Signs device certificates. Raises LocalError when ``home`` was not initialised."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home)
        if not self.paths.server.exists():
            raise LocalError(
                f"{home} is not a coordinator's folder; make one with: fedge coordinator init --home {home}"
            )
        try:
            key = load_pem_private_key(self.paths.authority_key.read_bytes(), password=None)
            self._certificate = x509.load_pem_x509_certificate(self.paths.authority.read_bytes())
        except (OSError, ValueError) as fault:
            raise LocalError(
                f"the authority in {home} cannot be read: {fault}; restore the folder from a backup"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise LocalError(f"{self.paths.authority_key} is not an Ed25519 key; restore the folder from a backup")
        self._key = key

    @classmethod
    def create(cls, home: Path) -> Authority:
        """Make a new authority and the coordinator's own certificate. Raises LocalError when ``home`` has one."""
        cls.require_absent(home)
        paths = Paths(home)
        make_directory(home)
        key, server_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        authority = _certificate(
            "fedge authority", key.public_key(), issuer="fedge authority", signer=key, authority=True
        )
        server = _certificate(SERVER_NAME, server_key.public_key(), issuer="fedge authority", signer=key, server=True)
        write_file(paths.authority_key, _private_pem(key))
        write_file(paths.authority, authority.public_bytes(Encoding.PEM))
        write_file(paths.server_key, _private_pem(server_key))
        write_file(paths.server, server.public_bytes(Encoding.PEM))  # last: its presence means the rest is there
        return cls(home)

    @staticmethod
    def require_absent(home: Path) -> None:
        """Raises LocalError when ``home`` has an authority."""
        if Paths(home).server.exists():
            raise LocalError(f"{home} is a coordinator's folder already; choose another --home for a second fleet")

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate (DER)."""
        return self._certificate.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> bytes:
        """What a join code says of it."""
        return hashlib.sha256(self.certificate).digest()[:HASH_BYTES]

    def issue(self, request: bytes) -> tuple[str, bytes, bytes]:
        """Device id, public key and certificate (DER) for a PKCS #10 request (DER).

        Raises RemoteError when the request is damaged, or not signed by the Ed25519 key it names.
        """
        try:
            parsed = x509.load_der_x509_csr(request)
            public = parsed.public_key()
            valid = parsed.is_signature_valid
        except Exception as fault:  # whatever a parser raises for a stranger's bytes is the stranger's fault
            raise RemoteError(f"the certificate request is damaged: {fault}") from None
        if not isinstance(public, Ed25519PublicKey) or not valid:
            raise RemoteError("the certificate request is not signed by the Ed25519 key it names")
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        device = device_id(raw)
        certificate = _certificate(device, public, issuer="fedge authority", signer=self._key)
        return device, raw, certificate.public_bytes(Encoding.DER)


def device_id(public_key: bytes) -> str:
    """The id of the device that holds this Ed25519 key: 80 bits of its SHA-256."""
    return "dev-" + hashlib.sha256(public_key).hexdigest()[:20]


def new_secret() -> tuple[bytes, bytes]:
    """A fresh one-time secret and what the store keeps of it."""
    secret = secrets.token_bytes(16)
    return secret, secret_hash(secret)


def secret_hash(secret: bytes) -> bytes:
    """A secret of 128 random bits needs no slow hash; looking it up by its hash takes no time that depends on it."""
    return hashlib.sha256(b"fedge invitation" + secret).digest()


def _certificate(
    name: str,
    public: Ed25519PublicKey,
    *,
    issuer: str,
    signer: Ed25519PrivateKey,
    authority: bool = False,
    server: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
    )
    if authority:
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    if server:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, None)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
