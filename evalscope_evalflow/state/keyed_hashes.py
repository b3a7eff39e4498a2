"""Hashes by which a secret is compared with the one of an earlier run, and that give it away to nobody.

A plain hash of a short secret can be found by trying, by everybody who has the run folder. So it is an HMAC, with a
random key that never leaves the user's state folder (`$XDG_STATE_HOME/evalflow`, mode 0600). Each hash says by which
key it was made. On another machine, for another user, or when that file is lost, a new key is made, and older
hashes can be compared with nothing: whether the secret is the same is then unknown.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from platformdirs import user_state_path

FILE = "identity.key"
PREFIX = "hmac"
_KEY_BYTES = 32


def keyed_hash(secret: str) -> str:
    """The hash of a secret, as `hmac:KEY:HASH`, where KEY names the key that it was made with.

    Where the state folder cannot be written, the key lasts as long as this process, so that the next one can compare
    nothing with it.
    """
    key = _key(user_state_path("evalflow") / FILE)
    return f"{PREFIX}:{_name(key)}:{hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()[:32]}"


def is_keyed(value: object) -> bool:
    """Whether a value of a record is such a hash."""
    return isinstance(value, str) and value.startswith(f"{PREFIX}:") and value.count(":") == 2


def comparable(one: str, other: str) -> bool:
    """Whether two such hashes were made with the same key."""
    return one.split(":")[1] == other.split(":")[1]


@lru_cache
def _key(file: Path) -> bytes:
    """The key in a file, which is made if it is not there."""
    with suppress(OSError):
        if not _whole(file):
            _make(file)
        if _whole(file):
            return file.read_bytes()
    return secrets.token_bytes(_KEY_BYTES)


def _whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size == _KEY_BYTES


def _make(file: Path) -> None:
    """Put a new key there as a whole, unless another process is first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in file.parent.glob(f"{FILE}.*.new"):  # of processes that were killed
        if not os.path.exists(f"/proc/{old.name.split('.')[-2]}"):
            old.unlink(missing_ok=True)
    new = file.with_name(f"{FILE}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(new, file)
        except OSError:  # somebody has made it meanwhile, it is broken, or the file system has no links
            if not _whole(file):
                new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _name(key: bytes) -> str:
    """A name of a key that does not give it away: it has 256 random bits."""
    return hashlib.sha256(b"evalflow identity key " + key).hexdigest()[:12]
