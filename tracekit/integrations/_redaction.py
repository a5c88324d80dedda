"""Redaction: detect names of secrets in queries and headers, and remove their values from queries.

Names are percent-decoded, and then compared as in ``_secrets.py``: ``api%5Fkey`` is ``apikey``, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from .._secrets import is_secret_name, normal
from ..cython import binding, cclass, compiled

MAX_TEXT: Final = 1024  # characters kept of a query or a header
REDACTED: Final = "REDACTED"

if not compiled:

    def find(text: str, character: str, begin: int, end: int, _direction: int) -> int:
        """Return the first index of *character*, or -1, as ``PyUnicode_FindChar()`` does."""
        return text.find(character, begin, end)


_MAX_KEY = 256  # characters of a name that are examined, from its end
_MAX_KNOWN = 1024
_USER: Final = r"((?:/|%2F){2})[^/?#&;@]*?(?:@|%40)"


@binding(False)
@cclass
class Redaction:
    """Detect names of secrets and redact queries; *names* adds to the names in this module.

    Raises ``TypeError`` or ``ValueError`` for a name that is not a str, or has neither letters nor digits.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise TypeError(f"redact must be an iterable of names, not {type(names).__name__}")
        more = set()
        for name in list(names):  # a method of a name may change a dict or a set
            if not isinstance(name, str):
                raise TypeError(f"redact must hold str, not {type(name).__name__}")
            if not normal(name):
                raise ValueError(f"redact must hold names with letters or digits: {name[:64]!a}")
            more.add(normal(name))
        self._more = frozenset(more)
        self._known: dict[str, bool] = {}

    def is_secret(self, name: str) -> bool:
        """Return whether *name*, of a header or a query parameter, denotes a secret."""
        known = self._known.get(name)
        if known is None:
            known = self._decide(name)
            if len(name) <= _MAX_KEY:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[name] = known
        return known

    def query(self, query: str) -> str:
        """Return *query*, given without its ``?``, cut to 1024 characters, with secret values as ``REDACTED``.

        A fragment, which clients must not send, is left out: it may hold the tokens of OAuth. So is the user info of a
        URL in a value.
        """
        if len(query) > MAX_TEXT:
            query = query[:MAX_TEXT]
        if "#" in query:
            query = query.partition("#")[0]
        if "@" in query or ("%" in query and "%40" in query):
            query = re.sub(_USER, r"\1", query, flags=re.IGNORECASE)
        if ";" in query:  # a separator in HTML 4, appendix B.2.2
            return ";".join([self._redacted(part) for part in query.split(";")])
        known = self._known
        begin, size = 0, len(query)
        while begin <= size:  # most queries are harmless: no list of their parts is made
            end = find(query, "&", begin, size, 1)
            if end < 0:
                end = size
            equals = find(query, "=", begin, end, 1)
            if known.get(query[begin : end if equals < 0 else equals]) is not False:  # not known to be harmless
                return self._redacted(query)
            begin = end + 1
        return query

    def _redacted(self, query: str) -> str:
        return "&".join([self._pair(pair) for pair in query.split("&")])

    def _pair(self, pair: str) -> str:
        key, _, value = pair.partition("=")
        return f"{key}={REDACTED}" if value and self.is_secret(key) else pair

    def _decide(self, name: str) -> bool:
        return is_secret_name(unquote(name[-_MAX_KEY:]), self._more)
