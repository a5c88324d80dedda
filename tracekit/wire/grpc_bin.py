"""OpenCensus's binary format, in gRPC metadata.

    grpc-trace-bin = version [ %x00 trace-id ] [ %x01 span-id ] [ %x02 options ] *OCTET
    version        = %x00
    trace-id       = 16OCTET          ; not all zeros
    span-id        = 8OCTET           ; not all zeros
    options        = OCTET            ; bit 0 sampled; absent: the receiver decides
    grpc-tags-bin  = version *( %x00 count key count value )
    count          = 1*3OCTET         ; a varint: the number of octets that follow

Names that end in ``-bin`` hold octets in gRPC's Python API, and base64 on the wire. Both are read. Octets are written,
except to carriers closer to the wire, names of bytes or headers of text only, which get base64.

The octets from the first unknown field on are kept as ``extra["grpc_bin"]`` and written again. Tags are labels;
malformed tags do not affect the ids. A tag whose key is not a token is dropped and counted in ``labels.dropped``.

Omitted and counted in ``left_out``: labels over 255 characters or outside printable ASCII, because peers must reject
all tags for one of them; labels past 8192 bytes; kept octets that do not fit behind the ids within 512 bytes; and the
parts of labels that this format cannot express, which are properties and all members but the last of a key.

Spec: https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import (
    MAX_LABEL_BYTES,
    Sieve,
    decode_tags,
    encode_tags,
    is_label_key,
    join_binary,
    put,
    split_binary,
)
from .._core.context import SpanContext, ids_of, make_remote
from .._core.errors import FormatError
from ._values import DEFERRED, Counting, labels_of, parts_of, single

if TYPE_CHECKING:
    from .._core.labels import Labels

__all__ = ["BINARY", "decode_binary", "encode_binary"]

_SIEVE = Sieve(("grpc-trace-bin", "grpc-tags-bin"))
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_MAX_BYTES = 512  # the limit of split_binary()
_MAX_TAG_CHARS = 255


def decode_binary(octets: bytes) -> SpanContext | None:
    """Return the remote context that the binary form holds, or None if it is malformed.

    Fields may be missing. All from an unknown field on is kept, and written again.
    """
    high, low, span, flags, size = split_binary(octets)
    if not size:
        return None
    return make_remote(high << 64 | low, span, flags, {"grpc_bin": octets[size:]} if size < len(octets) else None)


def encode_binary(context: SpanContext) -> bytes:
    """Return the binary form of *context*: 29 bytes, 27 while the decision is deferred, and the unknown fields."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    trace, span = ids_of(context)
    flags = DEFERRED if context.deferred else context.flags
    octets = join_binary(trace >> 64, trace & _MASK64, span, flags)
    tail = context.extra.get("grpc_bin")
    return octets + tail if tail and _is_tail(tail, _MAX_BYTES - len(octets)) else octets


class _Binary(Counting):
    name: str = "grpc_bin"
    fields: tuple[str, ...] = ("grpc-trace-bin", "grpc-tags-bin")

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the two entries, which may be labels alone, or None."""
        trace, tags = _SIEVE.collect(carrier)
        if trace is None:
            labels = None if tags is None else _read_tags(tags)
            return SpanContext(labels=labels) if labels else None
        context = decode_binary(_octets("grpc-trace-bin", trace, _MAX_BYTES))
        if context is None:
            reason = "must be version 0, a trace id and a span id, each whole and not all zeros"
            raise FormatError("grpc-trace-bin", reason, trace)
        if tags is not None:
            try:
                return context.replace(labels=_read_tags(tags))
            except FormatError:
                pass
        return context

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set ``grpc-trace-bin`` if *context* is valid, ``grpc-tags-bin`` if it has labels; otherwise remove them."""
        tail = context.extra.get("grpc_bin")
        if tail and not _is_tail(tail, _MAX_BYTES - (27 if context.deferred else 29)):
            context = context.replace(extra={})
            self.left_out += 1
        _put(carrier, "grpc-trace-bin", encode_binary(context) if context.is_valid else None)
        octets, labels = None, context.labels
        if labels:
            octets = encode_tags({key: value for key, value in labels.items() if _is_tag(key, value)})
            kept = len(decode_tags(octets) or ())
            self.left_out += parts_of(labels) - kept
        _put(carrier, "grpc-tags-bin", octets if octets != b"\0" else None)


def _is_tail(tail: object, room: int) -> bool:
    """Return whether *tail* fits and begins with an unknown field; otherwise it would be read as ids."""
    return isinstance(tail, bytes) and tail[0] > 2 and len(tail) <= room


def _is_tag(key: str, value: str) -> bool:
    return len(key) <= _MAX_TAG_CHARS >= len(value) and value.isascii() and value.isprintable()


def _octets(field: str, found: str | list[str], limit: int) -> bytes:
    """Return the octets of *found*, which is octets in Latin-1 or base64."""
    value = single(field, found) or ""
    is_base64 = value[:1] != "\0"  # the version octet, which cannot begin base64
    room, unit = ((limit + 2) // 3 * 4, "characters") if is_base64 else (limit, "octets")
    if len(value) > room:
        raise FormatError(field, f"{len(value)} {unit}, must be {room} at most")
    try:
        if is_base64:
            # With padding and without: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
            return binascii.a2b_base64(value + "=" * (-len(value) % 4), strict_mode=True)
        return value.encode("latin-1")
    except ValueError:
        raise FormatError(field, "must be octets of version 0, or base64", value) from None


def _read_tags(value: str | list[str]) -> Labels:
    tags = decode_tags(_octets("grpc-tags-bin", value, MAX_LABEL_BYTES))
    if tags is None:
        raise FormatError("grpc-tags-bin", "must be version 0 and pairs of counted UTF-8", value)
    found = {key: text for key, text in tags.items() if is_label_key(key)}
    return labels_of(found, len(tags) - len(found))


def _put(carrier: Any, name: str, octets: bytes | None) -> None:
    first = carrier[0] if isinstance(carrier, list) and carrier else ()
    is_wire = isinstance(first, tuple | list) and isinstance(next(iter(first), None), bytes)
    put(carrier, name, None)
    if octets is None:
        return
    if isinstance(carrier, list):
        carrier.append((name.encode(), _base64(octets)) if is_wire else (name, octets))
        return
    try:
        carrier[name] = octets
    except (AttributeError, TypeError):
        carrier[name] = _base64(octets).decode()


def _base64(octets: bytes) -> bytes:
    return binascii.b2a_base64(octets, newline=False).rstrip(b"=")


BINARY: Final = _Binary("BINARY")
