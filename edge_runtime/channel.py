"""Messages over TLS over any ordered byte stream: no I/O here, so that TCP and a serial line share every line of it.

A message is a 4-byte big-endian length and that many bytes. TLS 1.3 runs through memory buffers (``ssl.MemoryBIO``):
the caller moves ciphertext, whatever carries it.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from edge_runtime.errors import RemoteError

_LENGTH_BYTES = 4
_READ_BYTES = 16_384  # one TLS record of plaintext
_PIECE_BYTES = 65_536
SERVER_NAME = "fedge-coordinator"  # the name in every coordinator's certificate: identity is the key, never an address


class Channel:
    """One end of a secured conversation.

    Feed what arrives to :meth:`receive`, send what :meth:`bytes_to_send` returns after every call. The length of a
    message is checked against ``max_message_bytes`` (an attribute: the coordinator raises it once the peer has shown
    a certificate) before room is made for it.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else SERVER_NAME,
        )
        self._established = False
        self.closed = False  # the peer said goodbye; what it sent before still came out of receive()
        self._plaintext = bytearray()
        self._unsent: list[bytes] = []
        self.bytes_received = 0
        self.bytes_sent = 0
        if not server_side:
            self._advance()

    @property
    def established(self) -> bool:
        """Whether the handshake is complete."""
        return self._established

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), once established; None when it showed none."""
        return self._tls.getpeercert(binary_form=True) if self._established else None

    def receive(self, data: bytes) -> list[bytes]:
        """Take in ciphertext; the messages it completes. Raises RemoteError when the peer breaks TLS or the framing."""
        self.bytes_received += len(data)
        if self.closed:  # nothing after a goodbye is from the peer that TLS knows
            return []
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._advance()
        return self._messages()

    def send(self, message: bytes) -> None:
        """Queue a message; before the handshake is complete it waits. Raises RemoteError after the goodbye."""
        self._unsent.append(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
        self._flush()

    def pieces(self, message: bytes) -> Iterator[bytes]:
        """The ciphertext of ``message``, some 64 KiB at a time, each to be sent before the next is asked for.

        A memory BIO keeps the size it once had: a model encrypted at once would hold its size on every connection for
        as long as that lives. Raises RemoteError after the peer's goodbye.
        """
        framed = memoryview(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
        for start in range(0, len(framed), _PIECE_BYTES):
            try:
                self._tls.write(framed[start : start + _PIECE_BYTES])
            except ssl.SSLError as fault:
                raise RemoteError(f"the conversation is over: {fault.reason or fault}") from None
            yield self.bytes_to_send()

    def bytes_to_send(self) -> bytes:
        """Ciphertext for the peer."""
        data = self._outgoing.read()
        self.bytes_sent += len(data)
        return data

    def close(self) -> None:
        """Queue the TLS goodbye."""
        with contextlib.suppress(ssl.SSLError):  # the peer's goodbye is not waited for
            self._tls.unwrap()

    def _advance(self) -> None:
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                self._flush()
            while chunk := self._tls.read(_READ_BYTES):
                self._plaintext += chunk
            self.closed = True  # nothing, instead of SSLWantReadError: the peer's goodbye
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # an unannounced end is one, too: messages have lengths
            self.closed = True
        except ssl.SSLCertVerificationError as fault:
            raise RemoteError(f"the peer's certificate was not accepted: {fault.verify_message}") from None
        except ssl.SSLError as fault:
            raise RemoteError(f"TLS failed: {_reason(fault)}") from None

    def _flush(self) -> None:
        if self._established:
            messages, self._unsent = self._unsent, []
            for message in messages:
                try:
                    self._tls.write(message)
                except ssl.SSLError as fault:
                    raise RemoteError(f"the conversation is over: {_reason(fault)}") from None

    def _messages(self) -> list[bytes]:
        messages = []
        while len(self._plaintext) >= _LENGTH_BYTES:
            length = int.from_bytes(self._plaintext[:_LENGTH_BYTES], "big")
            if length > self.max_message_bytes:
                raise RemoteError(
                    f"the peer declares a message of {length} bytes, the limit is {self.max_message_bytes}"
                )
            if len(self._plaintext) < _LENGTH_BYTES + length:
                break
            with memoryview(self._plaintext) as plaintext:  # one copy, not two: it may be a model
                messages.append(bytes(plaintext[_LENGTH_BYTES : _LENGTH_BYTES + length]))
            del self._plaintext[: _LENGTH_BYTES + length]
        return messages


def _reason(fault: ssl.SSLError) -> str:
    return (fault.reason or str(fault)).replace("_", " ").lower()


def server_context(*, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS 1.3 for a coordinator. It asks for a certificate of its authority; a device that joins has none yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: saves half a kilobyte on a serial line
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(*, certificate: str | None, key: str | None, authority: str) -> ssl.SSLContext:
    """TLS 1.3 for a device: only the fleet's authority is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


def unverified_context() -> ssl.SSLContext:
    """TLS 1.3 that trusts anybody: only to fetch the authority's certificate, whose hash the join code names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
