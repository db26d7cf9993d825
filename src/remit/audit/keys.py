r"""Ed25519 keys (RFC 8032): the one that signs checkpoints, and the public one that checks them.

The written form of a public key is the verifier key of C2SP signed notes, `NAME+HASH+BASE64`, where HASH is the first
four bytes (hex) of SHA-256(name || "\\n" || 0x01 || key): https://c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from remit.errors import AuditError

__all__ = ["SigningKey", "VerifierKey", "read_public_key"]

ED25519 = b"\x01"  # the algorithm byte of C2SP signed notes
_KEY_FILE_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name under which it signs."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or "+" in self.name or any(character.isspace() for character in self.name):
            raise ValueError(f"`{self.name[:80]}` is not the name of a key: no spaces, no `+`")
        if len(self.public) != 32:
            raise ValueError("an Ed25519 public key has 32 bytes")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the written form.

        Raises:
            ValueError: it is not one, or its hash is not that of its name and key.
        """
        name, _, rest = text.strip().partition("+")
        digest, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"`{text[:80]}` is not a verifier key") from error
        if data[:1] != ED25519:
            raise ValueError(f"`{text[:80]}` is not an Ed25519 verifier key")
        key = cls(name, data[1:])
        if key.hash.hex() != digest:
            raise ValueError(f"`{text[:80]}` is damaged: its hash does not fit")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @property
    def hash(self) -> bytes:
        """The four bytes that name this key in a signature line."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs checkpoints: the public half, and a function that signs (a file's key, or one that is kept elsewhere).

    Attributes:
        public: the 32 bytes of the public key.
        sign: takes the message, returns the 64 bytes of its Ed25519 signature.
    """

    public: bytes
    sign: Callable[[bytes], bytes]

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key that is nowhere but in memory."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The private key in a file (PEM, PKCS 8).

        Raises:
            AuditError: no such file, one that others can read or that is another user's, or not an Ed25519 key.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                data = file.read(_KEY_FILE_LIMIT)
        except OSError as error:
            raise AuditError(
                f"the signing key `{path}` cannot be read: {error.strerror}",
                path=str(path),
                remedy="restore the key file, or name the right one",
            ) from error
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise AuditError(
                f"the signing key `{path}` can be used by others (mode {stat.S_IMODE(status.st_mode):04o})",
                path=str(path),
                remedy=f"`chmod 600 {path}`, and ask who had it",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise AuditError(
                f"the signing key `{path}` belongs to another user (uid {status.st_uid})",
                path=str(path),
                remedy="use a key of your own",
            )
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
            raise _no_key(path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _no_key(path)
        return cls._of(key)

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """The key in the file; where there is none, a new one is written first (0600, whole or not at all).

        Raises:
            AuditError: the file cannot be made or is not a key.
        """
        if not path.exists():
            private = Ed25519PrivateKey.generate()
            data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    with open(descriptor, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(descriptor)
                    # A link, not a rename: of two processes that begin at once, both must end up with one key.
                    with contextlib.suppress(FileExistsError):
                        os.link(draft, path)
                finally:
                    os.unlink(draft)
                sync_folder(path.parent)
            except OSError as error:
                raise AuditError(
                    f"the signing key `{path}` cannot be written: {error.strerror}",
                    path=str(path),
                    remedy="free some space" if error.errno == errno.ENOSPC else "use a folder that you can write",
                ) from error
        return cls.load(path)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey) -> SigningKey:
        return cls(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), key.sign)

    def verifier(self, name: str) -> VerifierKey:
        """The public half under a name."""
        return VerifierKey(name, self.public)


def read_public_key(path: Path) -> bytes | VerifierKey:
    """The public key in a file: a verifier key, a PEM public key, or the public half of a PEM private key.

    Raises:
        AuditError: the file cannot be read or holds none of these.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_LIMIT)
    except OSError as error:
        raise AuditError(f"the key `{path}` cannot be read: {error.strerror}", path=str(path)) from error
    try:
        if b"-----BEGIN" not in data:
            return VerifierKey.parse(data.decode())
        if b"PRIVATE KEY-----" in data:
            private = load_pem_private_key(data, password=None)
            public = private.public_key() if isinstance(private, Ed25519PrivateKey) else None
        else:
            loaded = load_pem_public_key(data)
            public = loaded if isinstance(loaded, Ed25519PublicKey) else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if public is None:
        raise _no_key(path)
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a new file in it is still there after the power fails (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_key(path: Path) -> AuditError:
    return AuditError(
        f"`{path}` is not an Ed25519 key",
        path=str(path),
        remedy="name a PEM file without a password, or move it away to have a new key made",
    )
