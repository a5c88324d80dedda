"""Faults of trace headers that do not make their format reject them, and values that are seldom intended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._core.codecs import (
    MAX_LABEL_BYTES,
    MAX_STATE_CHARS,
    is_label_key,
    is_state_key,
    is_state_value,
    join_baggage,
    parse_baggage,
)
from ..._core.context import ids_of
from ..._core.errors import FormatError, clip
from ..._core.tracestate import TraceState
from ...wire.grpc_bin import BINARY
from ...wire.jaeger import JAEGER
from .words import pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._core.context import SpanContext
    from ...wire import Format

_EXAMPLES = {"4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"}
_MAX_PROBLEMS = 8  # of one kind, in one header


class Problem(NamedTuple):
    """A fault of a field, its column (from 1) if it has one, and its consequence."""

    field: str
    reason: str
    column: int | None
    then: str


def losses(
    name: str, format: Format, fields: dict[str, str | list[str]], context: SpanContext | None
) -> Iterator[Problem]:
    """Yield the parts of *fields* that ``extract()`` drops silently; the *format* called *name* has read them."""
    if name == "tracecontext" and "tracestate" in fields:
        stands = "; the traceparent stands" if context is not None else ""
        yield from _state_losses(fields["tracestate"], f"a receiver drops the tracestate{stands}")
    elif name == "baggage":
        yield from _baggage_losses(fields["baggage"])
    elif name in ("jaeger", "ottrace"):
        yield from _label_losses(format, fields)
    elif name == "grpc" and "grpc-tags-bin" in fields:
        try:
            BINARY.read({"grpc-tags-bin": fields["grpc-tags-bin"]})
        except FormatError as error:
            if context is not None:
                yield Problem(error.field, error.reason, error.column, "the labels are left out, the ids are kept")
    elif name == "datadog" and context is not None:
        yield from _datadog_losses(fields, dict(pairs(context.extra.get("datadog"))))


def _state_losses(value: str | list[str], then: str) -> Iterator[Problem]:
    text = ",".join(value) if isinstance(value, list) else value
    try:
        TraceState.parse(text)
    except FormatError as error:
        column = error.column
        start = 1
        for member in text.split(",") if len(text) <= MAX_STATE_CHARS and isinstance(value, str) else ():
            key, equals, word = member.strip(" \t").partition("=")
            if column is None and (key or equals) and not (equals and is_state_key(key) and is_state_value(word)):
                column = start + len(member) - len(member.lstrip(" \t"))
                if equals and is_state_key(key):
                    column += len(key) + 1
            start += len(member) + 1
        yield Problem("tracestate", error.reason, column, then)


def _baggage_losses(value: str | list[str]) -> Iterator[Problem]:
    is_one = isinstance(value, str)
    text = value if isinstance(value, str) else join_baggage(value)
    bad = 0
    start = 1
    for piece in text[:MAX_LABEL_BYTES].split(","):
        # The last may be cut: the limit is reported below.
        if piece.strip(" \t") and not parse_baggage(piece)[0] and start + len(piece) <= MAX_LABEL_BYTES + 1:
            bad += 1
            if bad <= _MAX_PROBLEMS:
                reason, offset = _baggage_reason(piece)
                column = start + offset if is_one else None
                yield Problem("baggage", reason, column, "this label is left out, the others are kept")
        start += len(piece) + 1
    more = parse_baggage(text)[1] - min(bad, _MAX_PROBLEMS)
    if more > 0:
        reason = f"members that are malformed, or past 64 or {MAX_LABEL_BYTES} characters: {more}"
        yield Problem("baggage", reason, None, "they are left out, the others are kept")


def _baggage_reason(piece: str) -> tuple[str, int]:
    """Return the fault of a member, and its offset."""
    start = 0
    for at, part in enumerate(piece.split(";")):
        key, equals, value = part.partition("=")
        offset = start + len(key) - len(key.lstrip(" \t"))
        if at == 0 and not equals:
            return f"a member has no '=': {clip(part.strip())}", offset
        if not is_label_key(key.strip(" \t")):
            return f"a key must be letters, digits or !#$%&'*+-.^_`|~: {clip(key.strip())}", offset
        lead = len(value) - len(value.lstrip(" \t"))
        for place, char in enumerate(value.strip(" \t"), start + len(key) + 1 + lead):
            if char in ' "\\' or not (char.isascii() and char.isprintable()):
                return f"a value must have {clip(char)} percent-encoded", place
        start += len(part) + 1
    return "a member is malformed", 0


def _label_losses(format: Format, fields: dict[str, str | list[str]]) -> Iterator[Problem]:
    then = "this label is left out, the others are kept"
    for field, value in fields.items():
        if field == "jaeger-baggage":
            try:
                context = JAEGER.read({field: value})
            except FormatError:
                continue
            is_empty = isinstance(value, str) and not value.strip(", \t")
            if (context is None and not is_empty) or (context is not None and context.labels.dropped):
                yield Problem(field, "must be key=value,key=value, of at most 8192 characters", None, then)
        elif field not in format.fields and format.read({field: value}) is None:
            several = isinstance(value, list)
            yield Problem(
                field, "several values, must be one" if several else "its name or value is malformed", None, then
            )


def _datadog_losses(fields: dict[str, str | list[str]], words: dict[str, str]) -> Iterator[Problem]:
    origin, tags = fields.get("x-datadog-origin"), fields.get("x-datadog-tags")
    if origin is not None and "origin" not in words:
        yield Problem("x-datadog-origin", "must be 1 to 256 printable ASCII characters", None, "it is left out")
    reasons = {
        "malformed_tid": ("_dd.p.tid must be 16 lowercase hex digits, not all zeros", "the trace id has 64 bits only"),
        "decoding_error": ("must be key=value,key=value in printable ASCII", "all tags are left out"),
        "extract_max_size": ("must be 512 characters at most", "all tags are left out"),
    }
    error = words.get("error", "")
    if error and isinstance(tags, str):
        reason, then = reasons.get(error, (error, "it is left out"))
        column = None
        if error == "malformed_tid":
            column = tags.rfind("_dd.p.tid=") + len("_dd.p.tid=") + 1
        elif error == "decoding_error":
            start = 1
            for tag in tags.split(","):
                key, _, word = tag.partition("=")
                is_text = tag.isascii() and tag.isprintable()
                if column is None and not (key and word.strip(" ") and " " not in key and is_text):
                    column = start
                start += len(tag) + 1
        yield Problem("x-datadog-tags", reason, column, then)


def suspicions(name: str, fields: dict[str, str | list[str]], context: SpanContext | None) -> Iterator[str]:
    """Yield values in *fields* that are valid but seldom intended."""
    for field, value in fields.items():
        is_quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        if is_quoted and field not in ("server-timing", "baggage"):
            yield f"{field}: the quotes are part of the value: take them off"
        if name == "b3multi" and isinstance(value, list):
            yield f"{field} came {len(value)} times: the first counts"
    if name == "tracecontext" and "traceparent" not in fields:
        yield "tracestate without traceparent: a receiver ignores it"
    if context is None:
        return
    trace_id, span_id = ids_of(context)
    if trace_id and not trace_id >> 64:
        yield "the trace id has 64 bits, padded with zeros"
        if context.flags & 2:
            yield "a padded trace id cannot be random: the random flag must not be set"
    for what, digits in (("trace id", context.trace_id), ("span id", context.span_id)):
        if digits.strip("0") and len(set(digits)) == 1:
            yield f"all digits of the {what} are the same: it looks made up"
    if context.trace_id in _EXAMPLES:
        yield "the trace id is the specification's example: a client that always sends it puts all its requests into one trace"
    if trace_id and not span_id and name != "xray":
        yield "a trace without a span: a receiver has no parent for its own"
    if name == "tracecontext" and context.flags & ~3:
        yield f"flags {context.flags & ~3:#04x} are unknown: they are sent as 0"
    if name == "datadog" and isinstance(tags := fields.get("x-datadog-tags"), str) and len(tags) <= 512:
        private = [key for tag in tags.split(",") if (key := tag.partition("=")[0]) and not key.startswith("_dd.p.")]
        if private:
            yield f"tags that do not begin with _dd.p. are not for propagation: {', '.join(private[:8])}"
