"""Who may call: API keys by user, of which a file keeps the SHA-256 alone."""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from gnm.config import StrictModel, load_params
from gnm.errors import ConfigError
from gnm.files import atomic_path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOCAL = "local"
"""The one user of a service without keys."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _KeyFile(StrictModel):
    users: dict[str, _Digest]


class Keys:
    """Users by their keys. Without a file everybody is `LOCAL`."""

    def __init__(self, users: dict[str, str] | None = None):
        """users: the SHA-256 of each user's key in hex; None: no key is asked for."""
        self.needed = users is not None
        self._users = {digest: user for user, digest in (users or {}).items()}

    @classmethod
    def read(cls, path: Path | None) -> "Keys":
        """The keys in a file that `add_user` made. Raises ConfigError if it is none, or has no user, or a key
        is of two, one of whom would have the other's memories."""
        if path is None:
            return cls()
        users = load_params(path, _KeyFile).users
        for user in users:
            check_user(user, users)
        owners: dict[str, str] = {}
        for user, digest in users.items():
            if (other := owners.setdefault(digest, user)) != user:
                raise ConfigError(f"{path}: {other!r} and {user!r} have the same key; give one a new one: --add-user")
        if not users:
            raise ConfigError(f"{path} has no user; add one: gnm serve --keys {path} --add-user NAME")
        return cls(users)

    def user(self, authorization: str | None) -> str | None:
        """Whose key an Authorization header ("Bearer KEY") holds; None: nobody's."""
        if not self.needed:
            return LOCAL
        scheme, _, key = (authorization or "").partition(" ")
        return self._users.get(_digest(key.strip())) if scheme.lower() == "bearer" else None


def add_user(path: Path, user: str) -> str:
    """Give `user` a new key, which replaces an old one; returns the key. The file keeps what it is recognised by."""
    users = dict(load_params(path, _KeyFile).users) if path.exists() else {}
    check_user(user, users)
    key = f"gnm-{secrets.token_urlsafe(32)}"
    users[user] = _digest(key)
    with atomic_path(path, private=True) as temporary:
        temporary.write_text(yaml.safe_dump({"users": users}), encoding="utf-8")
    return key


def check_user(user: str, users: Iterable[str]) -> None:
    """Raise ConfigError if `user` is no name that a folder can have, or differs from one of `users` in case alone.

    On a file system that ignores case these two would share a folder.
    """
    if not NAME.fullmatch(user):
        raise ConfigError(f"user {user!r}: give letters, digits, '.', '_' and '-', at most 64, a letter or digit first")
    for other in users:
        if other != user and other.casefold() == user.casefold():
            raise ConfigError(f"users {other!r} and {user!r} differ in case alone; give one of them another name")


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine as it calls itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
