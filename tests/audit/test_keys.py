from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from remit.audit.keys import SigningKey, VerifierKey, read_public_key
from remit.errors import AuditError

# RFC 8032, 7.1, test 2.
RFC_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_vector_of_rfc_8032() -> None:
    key = VerifierKey("name", RFC_PUBLIC)
    assert key.verify(b"\x72", RFC_SIGNATURE)
    assert not key.verify(b"\x73", RFC_SIGNATURE)
    assert not key.verify(b"\x72", RFC_SIGNATURE[:-1])


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.key"
    key = SigningKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert SigningKey.load_or_create(path).public == key.public == SigningKey.load(path).public
    assert [item.name for item in path.parent.iterdir()] == ["audit.key"]


def test_many_who_begin_at_once_end_up_with_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: SigningKey.load_or_create(tmp_path / "k").public, range(32)))
    assert len(set(keys)) == 1


def test_a_key_that_others_can_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    SigningKey.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(AuditError, match="can be used by others") as caught:
        SigningKey.load(path)
    assert "chmod 600" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    SigningKey.load_or_create(path)
    os.chown(path, 12345, -1)
    with pytest.raises(AuditError, match="belongs to another user"):
        SigningKey.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(AuditError, match="is not an Ed25519 key"):
        SigningKey.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rsa.key"
    rsa = generate_private_key(65537, 2048)
    path.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(AuditError, match="is not an Ed25519 key"):
        SigningKey.load(path)
    path.write_bytes(rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(AuditError, match="is not an Ed25519 key"):
        read_public_key(path)


def test_a_missing_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"gone\.key` cannot be read: No such file"):
        SigningKey.load(tmp_path / "gone.key")


def test_the_written_form_of_a_public_key() -> None:
    # The example of the Go checksum database's note package.
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert str(VerifierKey.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumanm+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc",
        "PeterNeumann+c74f20a3+!!!!",
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_damaged_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        VerifierKey.parse(text)


def test_the_public_half_is_read_from_every_form(tmp_path: Path) -> None:
    private = tmp_path / "audit.key"
    key = SigningKey.load_or_create(private)
    assert read_public_key(private) == key.public
    written = tmp_path / "audit.vkey"
    written.write_text(f"{key.verifier('remit.audit/x')}\n")
    assert read_public_key(written) == key.verifier("remit.audit/x")
