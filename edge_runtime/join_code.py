"""The join code: where the coordinator is, a one-time secret, and the hash of the authority to trust."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Annotated

from edge_runtime import wire
from edge_runtime.errors import LocalError, RemoteError
from edge_runtime.tables import Range, from_mapping, to_mapping

_PREFIX = "fedge1-"
HASH_BYTES = 16  # a second preimage of 128 bits is out of reach


@dataclass(frozen=True)
class JoinCode:
    """``authority``: the first 16 bytes of the SHA-256 of the authority's certificate (DER)."""

    address: Annotated[str, Range(1, 200)]
    secret: Annotated[bytes, Range(16, 16)]
    authority: Annotated[bytes, Range(HASH_BYTES, HASH_BYTES)]

    def text(self) -> str:
        """One word to copy: base64url, closed by a CRC-32 so that a slip of the mouse is told from a wrong code."""
        body = wire.encode(to_mapping(self))
        sealed = body + zlib.crc32(body).to_bytes(4, "big")
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Raises LocalError when ``text`` is not a whole join code."""
        text = "".join(text.split())
        if not text.startswith(_PREFIX):
            raise LocalError(f'a join code starts with "{_PREFIX}"; print one with: fedge coordinator invite')
        try:
            body = text.removeprefix(_PREFIX)
            sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            sealed = b""
        if len(sealed) < 5 or zlib.crc32(sealed[:-4]).to_bytes(4, "big") != sealed[-4:]:
            raise LocalError("the join code is incomplete or has a typing error: copy it whole, on one line")
        try:
            code = from_mapping(cls, wire.decode(sealed[:-4]), where="join code")
        except RemoteError as fault:
            raise LocalError(f"the join code is damaged: {fault}") from None
        if code.text() != text:  # base64 ignores the last character's spare bits
            raise LocalError("the join code has a typing error: copy it whole, on one line")
        return code
