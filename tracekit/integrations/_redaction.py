"""Secrets in URLs and headers: which names mean one, and queries without their values.

Names are compared in a normal form: percent-decoded, in lower case, letters and digits only. So ``X-Api-Key``,
``x_api_key``, ``apiKey``, ``api%5Fkey`` and ``apikey[]`` are one name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

__all__ = ["MAX_TEXT", "REDACTED", "Redaction"]

MAX_TEXT: Final = 1024  # characters kept of a query or a header
REDACTED: Final = "REDACTED"

# Whole names, in normal form. They are too short, or too common inside other words, to be looked for anywhere else.
_NAMES: Final = frozenset(
    {
        "code",
        "cvc",
        "cvv",
        "hmac",
        "key",
        "otp",
        "pass",
        "pin",
        "samlart",
        "samlrequest",
        "samlresponse",
        "sid",
        "sig",
        "ticket",
        "totp",
    }
)
# What the normal form of a secret's name ends with, whatever stands before it ...
_ENDINGS: Final = (
    "accesskey",
    "accesskeyid",
    "apikey",
    "assertion",
    "auth",
    "authcode",
    "authkey",
    "authorization",
    "authorizationcode",
    "bearer",
    "codeverifier",
    "cookie",
    "credential",
    "credentials",
    "csrf",
    "encryptionkey",
    "jwt",
    "licensekey",
    "masterkey",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "secretkey",
    "sessid",
    "sessionid",
    "sharedkey",
    "signature",
    "signingkey",
    "storagekey",
    "subscriptionkey",
    "token",
    "userpass",
    "xsrf",
)
# ... and what it begins with.
_BEGINNINGS: Final = ("secret", "session")
_MAX_KEY = 256  # characters of a key that are looked at, from its end: an ending decides
_MAX_KNOWN = 1024


class Redaction:
    """Replace the values of names that mean a secret; *names* are secret besides those in the table.

    Raises ``TypeError`` or ``ValueError`` for a name that is no text, or has no letter or digit.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise TypeError(f"redact must be an iterable of names, not {type(names).__name__}")
        more = set()
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"redact must hold str, not {type(name).__name__}")
            if not _normal(name):
                raise ValueError(f"redact must hold names with letters or digits: {name[:64]!a}")
            more.add(_normal(name))
        self._names = _NAMES | more
        self._known: dict[str, bool] = {}

    def is_secret(self, name: str) -> bool:
        """Return whether *name*, of a header or of a part of a query, means a secret."""
        known = self._known.get(name)
        if known is None:
            known = self._decide(name)
            if len(name) <= _MAX_KEY:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[name] = known
        return known

    def query(self, query: str) -> str:
        """Return *query*, without its ``?``, with ``REDACTED`` for the values of secrets; 1024 characters at most."""
        if len(query) > MAX_TEXT:
            query = query[:MAX_TEXT]
        if ";" in query:  # separates, too, in the forms of before HTML 5
            return ";".join(["&".join(map(self._pair, part.split("&"))) for part in query.split(";")])
        known = self._known
        for part in query.split("&"):
            if known.get(part.partition("=")[0]) is not False:  # it may be a secret
                return "&".join(map(self._pair, query.split("&")))
        return query

    def _pair(self, pair: str) -> str:
        key, _, value = pair.partition("=")
        return f"{key}={REDACTED}" if value and self.is_secret(key) else pair

    def _decide(self, name: str) -> bool:
        name = unquote(name[-_MAX_KEY:])
        # Of "user[password]" and "filter.token" the last part counts, too.
        words = [_normal(name), *map(_normal, name.replace("[", ".").split("."))]
        return any(
            word in self._names or word.endswith(_ENDINGS) or word.startswith(_BEGINNINGS) for word in words if word
        )


def _normal(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
