"""Signing: tell what this site wrote into a database file from what a stranger wrote.

Layer 4: imports ``errors``, ``settings`` and ``user_files``. A database file is untrusted,
so what is to happen without a person asking (going on with a job after a restart) is done
only for rows that carry a signature of ours. The secret is made once, in the folder of
what the user has registered, and never leaves it. What is signed is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import SourceError
from .settings import user_directory
from .user_files import read_line

SECRET_FILE_NAME = "signing-secret"
_SECRET_BYTES = 32
_SIGNATURE_CHARACTERS = 64


def sign(*parts: str) -> str:
    """Return the signature of these texts, in this order (HMAC-SHA-256, hexadecimal).

    Raises:
        SourceError: the secret can be neither read nor made.
    """
    return _signature(_get_secret(), parts)


def is_signed(signature: object, *parts: object) -> bool:
    """Say whether this is our signature of these texts; a file may hold anything instead.

    Without a secret nothing was ever signed here, and none is made by asking.

    Raises:
        SourceError: the secret cannot be read.
    """
    # Before the secret is read: most of what a stranger's file holds ends here.
    if not isinstance(signature, str) or len(signature) != _SIGNATURE_CHARACTERS:
        return False
    texts = tuple(part for part in parts if isinstance(part, str))
    secret = read_line(secret_file())
    if secret is None or len(texts) != len(parts):
        return False
    # As bytes: compare_digest refuses text that is not ASCII, and a file may hold any.
    expected = _signature(secret, texts).encode()
    return hmac.compare_digest(expected, signature.encode("utf-8", "replace"))


def secret_file() -> Path:
    """Return the path of the secret; it may not exist yet."""
    return user_directory() / SECRET_FILE_NAME


def _signature(secret: str, parts: tuple[str, ...]) -> str:
    digest = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        # The length first: ("ab", "c") is not ("a", "bc").
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _get_secret() -> str:
    """Return the secret; of several processes that make it at once, one decides it."""
    path = secret_file()
    secret = read_line(path)
    if secret is None:
        _make_secret(path)
        secret = read_line(path)
    if secret is None:
        raise SourceError(str(path), "is empty: remove it, and a new one is made")
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret where there is none, whole from the first moment it can be seen.

    Raises:
        SourceError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes a file that only its owner can read.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            _put_if_missing(temporary, path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error})") from error


def _put_if_missing(temporary: str, path: Path) -> None:
    """Give the file its name, unless another process was faster."""
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename it never replaces
    except OSError:
        # A file system without hard links: the last of several that do this at the very
        # same moment wins, and those before it go on only when a person asks.
        if not path.exists():
            os.replace(temporary, path)
