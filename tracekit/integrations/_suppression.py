"""OpenTelemetry's request to leave calls alone: native integrations honor it as its own instrumentations do.

An instrumentation that makes a client span sets one of these keys in the current Context around the call, so that
instrumentations below it do not trace the call again; exporters set it around their requests.
"""

from __future__ import annotations

import sys

from ..cython import compiled

if not compiled:
    from .._core.scopes import innermost


def is_suppressed() -> bool:
    """Return whether no instrumentation shall make spans here."""
    return _is_set("suppress_instrumentation")


def is_http_suppressed() -> bool:
    """Return whether no HTTP client instrumentation shall make spans here."""
    return _is_set("suppress_http_instrumentation") or _is_set("suppress_instrumentation")


def _is_set(name: str) -> bool:
    """Tell whether the current Context has a value under *name*, or under the key that the API makes of it at import."""
    scope = innermost()
    ambient = None if scope is None else scope.ambient
    if ambient is None or not ambient.keys:
        return False
    # Such values get here through the bridge alone, which imports the API.
    key = getattr(sys.modules.get("opentelemetry.context"), f"_{name.upper()}_KEY", name)
    try:
        return bool(ambient.keys.get(name) or ambient.keys.get(key))
    except Exception:  # a value that is neither true nor false
        return False
