"""The keys and tokens of a NATS server that lets clients in by a file of credentials."""

from __future__ import annotations

import base64
import json
import secrets
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
NO_LIMITS = ("subs", "data", "payload")
ACCOUNT_LIMITS = ("imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams")


class Key:
    """A key of one kind: its seed, and the name that it signs for."""

    def __init__(self, kind: int) -> None:
        nkeys = pytest.importorskip("nkeys", reason="nkeys is not there: extra engines")
        self.seed: bytes = nkeys.encode_seed(secrets.token_bytes(32), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.name: str = self._pair.public_key.decode()

    def token(self, subject: str, kind: str, **facts: Any) -> str:
        """Return a signed JSON web token about *subject*."""
        claims = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()),
            "iss": self.name,
            "name": kind,
            "sub": subject,
            "nats": {"type": kind, "version": 2, **facts},
        }
        parts = {"typ": "JWT", "alg": "ed25519-nkey"}, claims
        text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_encoded(self._pair.sign(text.encode()))}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@attrs.frozen
class Realm:
    """An operator with one account and one user, beside the account of the server itself."""

    operator: Key = attrs.field(factory=lambda: Key(OPERATOR))
    system: Key = attrs.field(factory=lambda: Key(ACCOUNT))
    account: Key = attrs.field(factory=lambda: Key(ACCOUNT))
    user: Key = attrs.field(factory=lambda: Key(USER))

    def lines(self, folder: Path) -> dict[str, Any]:
        """Return the lines of a server's configuration."""
        limits = dict.fromkeys((*NO_LIMITS, *ACCOUNT_LIMITS, "consumer"), -1)
        account = self.operator.token(
            self.account.name, "account", limits={**limits, "wildcards": True}
        )
        system = self.operator.token(self.system.name, "account")
        file = folder / "operator.jwt"
        file.write_text(self.operator.token(self.operator.name, "operator"))
        return {
            "operator": f'"{file}"',
            "system_account": self.system.name,
            "resolver": "MEMORY",
            "resolver_preload": f"{{{self.account.name}: {account}, {self.system.name}: {system}}}",
        }

    def credentials(self, folder: Path) -> str:
        """Write the file of credentials; return its path."""
        token = self.account.token(self.user.name, "user", **dict.fromkeys(NO_LIMITS, -1))
        file = folder / f"{self.user.name}.creds"
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return str(file)
