"""OpenTracing's BINARY format, which OpenTracing leaves to the tracer: the configured formats' fields as octets.

binary = *( name ":" value LF )      ; as UTF-8
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ... import _carriers
from ..._core.guard import type_name
from ..._core.misuse import misused

if TYPE_CHECKING:
    from ..._core.context import SpanContext

__all__ = ["read_binary", "write_binary"]

_MAX_BYTES: Final = 1 << 16  # as extract() reads of a carrier


def write_binary(carrier: Any, context: SpanContext) -> None:
    """Append *context* to *carrier*, a bytearray."""
    if not isinstance(carrier, bytearray):
        misused(TypeError(f"carrier must be a bytearray, not {type_name(carrier)}"))
        return
    fields: dict[str, str] = _carriers.inject({}, context)
    carrier.extend("".join([f"{name}:{value}\n" for name, value in fields.items()]).encode())


def read_binary(carrier: Any) -> SpanContext | None:
    """Return the context in *carrier*, octets, or None."""
    if not isinstance(carrier, bytes | bytearray | memoryview):
        misused(TypeError(f"carrier must be a bytearray or bytes, not {type_name(carrier)}"))
        return None
    try:
        octets = bytes(carrier[: _MAX_BYTES + 1])
        text = octets.decode() if len(octets) <= _MAX_BYTES else ""
    except Exception:  # not UTF-8, or a memoryview that was released
        return None
    pairs = [tuple(line.split(":", 1)) for line in text.split("\n") if ":" in line]
    return _carriers.extract(pairs)
