"""The fleet's keys and settings: made once, readable by their owner alone, damaged aloud."""

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.authority import Authority, Paths, device_id, new_secret, secret_hash
from coordinator.config import Config, load_config, save_config
from edge_runtime.errors import LocalError, RemoteError


def request_of(key):
    return (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None).public_bytes(Encoding.DER)
    )


def test_keys_are_for_their_owner_alone(tmp_path):
    Authority.create(tmp_path / "home")
    paths = Paths(tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
    for path in (paths.authority_key, paths.server_key):
        assert path.stat().st_mode & 0o077 == 0


def test_an_authority_is_not_replaced(tmp_path):
    fingerprint = Authority.create(tmp_path).fingerprint
    with pytest.raises(LocalError, match="already"):
        Authority.create(tmp_path)
    assert Authority(tmp_path).fingerprint == fingerprint


def test_one_that_was_made_by_half_is_made_again(tmp_path):
    Authority.create(tmp_path)
    Paths(tmp_path).server.unlink()  # the last file: the power went before it
    with pytest.raises(LocalError, match="is not a coordinator's folder"):
        Authority(tmp_path)
    Authority.create(tmp_path)
    Authority(tmp_path)


@pytest.mark.parametrize("name", ["authority_key", "authority"])
def test_a_damaged_authority_is_told_as_such(tmp_path, name):
    Authority.create(tmp_path)
    getattr(Paths(tmp_path), name).write_text("-----BEGIN NOTHING-----")
    with pytest.raises(LocalError, match="restore the folder from a backup"):
        Authority(tmp_path)


def test_a_certificate_names_the_device_and_is_for_clients_only(tmp_path):
    key = Ed25519PrivateKey.generate()
    device, public, certificate = Authority.create(tmp_path).issue(request_of(key))
    assert public == key.public_key().public_bytes_raw()
    assert device == device_id(public)
    parsed = x509.load_der_x509_certificate(certificate)
    assert parsed.subject.rfc4514_string() == f"CN={device}"
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose._name for purpose in usage] == ["clientAuth"]
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_name_in_a_request_is_not_believed(tmp_path):
    from cryptography.x509.oid import NameOID

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedge-coordinator")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, None).public_bytes(Encoding.DER)
    device, _, certificate = Authority.create(tmp_path).issue(request)
    assert x509.load_der_x509_certificate(certificate).subject.rfc4514_string() == f"CN={device}"


def test_a_device_cannot_pose_as_the_coordinator(tmp_path):
    from edge_runtime.channel import Channel, client_context, server_context

    authority = Authority.create(tmp_path)
    key = Ed25519PrivateKey.generate()
    _, _, certificate = authority.issue(request_of(key))
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    (tmp_path / "device.crt").write_text(ssl.DER_cert_to_PEM_cert(certificate))
    (tmp_path / "device.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted = str(authority.paths.authority)
    impostor = Channel(
        server_context(certificate=str(tmp_path / "device.crt"), key=str(tmp_path / "device.key"), authority=trusted),
        server_side=True,
        max_message_bytes=1000,
    )
    device = Channel(
        client_context(certificate=None, key=None, authority=trusted), server_side=False, max_message_bytes=1000
    )
    impostor.receive(device.bytes_to_send())
    with pytest.raises(RemoteError, match="certificate was not accepted"):
        device.receive(impostor.bytes_to_send())


@pytest.mark.parametrize("request_bytes", [b"", b"x" * 100, bytes(4096)])
def test_a_request_that_is_none_is_the_devices_fault(tmp_path, request_bytes):
    with pytest.raises(RemoteError, match="damaged"):
        Authority.create(tmp_path).issue(request_bytes)


def test_secrets_are_fresh_and_only_their_hash_is_kept():
    (one, hashed), (two, _) = new_secret(), new_secret()
    assert one != two
    assert len(one) == 16
    assert hashed == secret_hash(one)
    assert one not in hashed


# Settings


def test_settings_come_back_as_they_were_written(tmp_path):
    config = Config("0.0.0.0:7433", 'lab "one".example:7433', ("/dev/serial/by-id/usb-x@230400",))
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:7433", ("127.0.0.1", 7433)), ("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))],
)
def test_an_address_is_host_and_port(listen, address):
    assert Config(listen, listen).listen_address() == address


@pytest.mark.parametrize("listen", ["", "7433", ":7433", "host:", "host:x", "host:65536", "host:-1"])
def test_anything_else_is_no_address(listen):
    with pytest.raises(LocalError, match="is no address: want HOST:PORT to listen on"):
        Config(listen, "x").listen_address()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listen = 5", "want str"),
        ("listen = 'x'\nadvertise = 'y'\nlisen = 'z'", "did you mean"),
        ("= 1", "cannot read"),
        ("listen = 'x'", "missing"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_reason(tmp_path, text, words):
    (tmp_path / "coordinator.toml").write_text(text)
    with pytest.raises(LocalError, match=words):
        load_config(tmp_path)


def test_no_byte_of_a_certificate_request_brings_anything_but_a_refusal(tmp_path):
    authority = Authority.create(tmp_path / "home")
    request = request_of(Ed25519PrivateKey.generate())
    device, key, _ = authority.issue(request)
    refused = 0
    for position in range(len(request)):
        for flip in (0x01, 0x80, 0xFF):
            spoiled = bytearray(request)
            spoiled[position] ^= flip
            try:
                # One bit may pass: the count of unused bits before the signature, whose own bits then say the same.
                assert authority.issue(bytes(spoiled))[:2] == (device, key)
            except RemoteError:
                refused += 1
    assert refused >= 3 * len(request) - 1
