"""OpenTelemetry's request to leave calls alone: native integrations honour it as its own instrumentations do.

An instrumentation that makes a client span sets one of these keys in the current Context around the call, so that
instrumentations below it do not trace the call again; exporters set it around their requests.
"""

from __future__ import annotations

from typing import Any

from .._core.scopes import current_scope

__all__ = ["is_http_suppressed", "is_suppressed"]

_ALL = "suppress_instrumentation"
_HTTP = "suppress_http_instrumentation"


def is_suppressed() -> bool:
    """Return whether no instrumentation shall make spans here."""
    keys = _keys()
    return bool(keys) and bool(keys.get(_ALL))


def is_http_suppressed() -> bool:
    """Return whether no HTTP client instrumentation shall make spans here."""
    keys = _keys()
    return bool(keys) and bool(keys.get(_HTTP) or keys.get(_ALL))


def _keys() -> Any:
    scope = current_scope()
    ambient = None if scope is None else scope.ambient
    return None if ambient is None else ambient.keys
