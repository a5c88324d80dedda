"""The wire lab: the meaning of a message's trace headers, their faults, and their equivalents in other formats.

``examine()`` asks the formats themselves, each for its own fields, and ``extract`` for all of them together.
"""

from __future__ import annotations

import binascii
import difflib
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import _propagation
from ..._core.codecs import MAX_LABEL_BYTES
from ..._core.context import SpanContext, ids_of
from ..._core.errors import FormatError
from ...wire.b3 import MULTI, SINGLE
from ...wire.cloudtrace import CLOUDTRACE
from ...wire.datadog import DATADOG
from ...wire.environ import ENVIRON, fields_of, variable
from ...wire.grpc_bin import BINARY
from ...wire.jaeger import JAEGER
from ...wire.ottrace import OTTRACE
from ...wire.seed_header import SEED
from ...wire.server_timing import SERVER_TIMING
from ...wire.w3c import BAGGAGE, TRACECONTEXT
from ...wire.xray import XRAY
from .dumps import DumpError, Message
from .faults import Problem, losses, suspicions
from .words import Word, pairs, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...wire import Format

# In the order in which a message's contexts are put together; the names are those of --to.
_ALL = (TRACECONTEXT, BAGGAGE, SINGLE, MULTI, JAEGER, XRAY, OTTRACE, DATADOG, CLOUDTRACE, BINARY, SEED, SERVER_TIMING)
_FORMATS: dict[str, Format] = {"grpc" if format is BINARY else format.name: format for format in _ALL}
_TARGETS: dict[str, Any] = {**_FORMATS, "environ": ENVIRON}
_OWNERS = {field: name for name, format in _FORMATS.items() for field in format.fields}
_PREFIXES = {prefix: name for name, format in _FORMATS.items() for prefix in getattr(format, "prefixes", ())}
_VARIABLES = frozenset(map(variable, _OWNERS))
_STARTS = tuple(map(variable, _PREFIXES))

_NEW_TRACE = "a receiver starts a new trace"
_THEN = {
    "server-timing": "the caller learns nothing of the trace",
    "seed": f"{_NEW_TRACE}; or the header has another meaning and the same name",
}
_MAX_NAMES = 1000
_MAX_HEADERS = 1000  # of trace headers in one message; extract() stops far below


class Header(NamedTuple):
    """A header or variable as it came, and the field that a format has it as."""

    field: str
    name: str
    value: str


class Found(NamedTuple):
    """The headers of one format in a message."""

    format: str
    headers: list[Header]
    fields: dict[str, str | list[str]]  # the input of the format
    context: SpanContext | None
    words: list[Word]
    problems: list[Problem]
    warnings: list[str]


class Conversion(NamedTuple):
    """A message's context in another format, the values it cannot carry, and those it spells differently."""

    format: str
    headers: dict[str, str]
    lost: list[str]
    notes: list[str]


class Report(NamedTuple):
    """The findings in one message, and its context as ``extract()`` would return it with all formats."""

    title: str
    is_environ: bool
    found: list[Found]
    context: SpanContext | None
    warnings: list[str]
    conversions: list[Conversion]

    @property
    def ok(self) -> bool:
        """Whether every trace header is good."""
        return not any(found.problems for found in self.found)

    def as_json(self) -> dict[str, Any]:
        """Return all this in values that JSON has."""
        plain: dict[str, Any] = _plain(self)
        for found, shown in zip(self.found, plain["found"], strict=True):
            shown["ok"] = not found.problems
        return plain | {"ok": self.ok}


def examine(messages: Iterable[Message], to: Sequence[str] = ()) -> list[Report]:
    """Return a report on each of *messages* that has trace headers, with its context in the formats that *to* names.

    Raises ``DumpError`` where none has any, or there is no such format.
    """
    targets = list(dict.fromkeys(_TARGETS if "all" in to else to))
    unknown = [name for name in targets if name not in _TARGETS]
    if unknown:
        raise DumpError(f"no such format: {unknown[0][:40]!a}: expected all or one of {', '.join(_TARGETS)}")
    reports, hints = [], []
    before = _propagation.formats()
    _propagation.use_formats(tuple(_FORMATS.values()))
    try:
        for message in messages:
            report = _examine(message, targets)
            if report.found:
                reports.append(report)
            hints += report.warnings
    finally:
        _propagation.use_formats(before)
    if not reports:
        hint = f"; {hints[0]}" if hints else ""
        raise DumpError(f"no trace header found{hint}: expected one of {', '.join(sorted(_OWNERS))}")
    return reports


def _examine(message: Message, targets: list[str]) -> Report:
    headers = list(islice(_headers_in(message), _MAX_HEADERS + 1))
    found = []
    for name in _FORMATS:
        mine = [header for header in headers if _owner(header.field) == name]
        one = _judge(name, mine) if mine else None
        if one is not None:
            found.append(one)
    context = _propagation.extract_all({field: value for one in found for field, value in one.fields.items()})[0]
    warnings = [*_misspelled(message), *_disagreements(found)]
    if len(headers) > _MAX_HEADERS:
        warnings.append(f"more than {_MAX_HEADERS} trace headers: the others were not looked at")
    conversions = [_convert(context, name, _TARGETS[name]) for name in targets] if context is not None else []
    return Report(message.title, message.is_environ, found, context, warnings, conversions)


def _headers_in(message: Message) -> Iterator[Header]:
    """Yield the trace headers of *message*, or the variables of an environment."""
    if not message.is_environ:
        for name, value in message.fields:
            if name.isascii() and _owner(name.lower()) is not None:
                yield Header(name.lower(), name, value)
        return
    variables = {name: value for name, value in message.fields if name in _VARIABLES or name.startswith(_STARTS)}
    some = dict(islice(variables.items(), _MAX_HEADERS + 1))
    for field, value in fields_of(some, list(_FORMATS.values())).items():
        yield Header(field, variable(field), value)
    for name, value in message.fields:
        # As AWS Lambda calls it; as CGI and WSGI call headers.
        other = "x-amzn-trace-id" if name == "_X_AMZN_TRACE_ID" else name[5:].replace("_", "-").lower()
        if name.startswith(("HTTP_", "_X_AMZN")) and _owner(other) is not None:
            yield Header(other, name, value)


def _owner(field: str) -> str | None:
    """Return the name of the format that *field* is of."""
    if field in _OWNERS or not field.startswith(tuple(_PREFIXES)):
        return _OWNERS.get(field)
    return next(name for prefix, name in _PREFIXES.items() if field.startswith(prefix))


def _judge(name: str, headers: list[Header]) -> Found | None:
    values: dict[str, list[str]] = {}
    for header in headers:
        values.setdefault(header.field, []).append(header.value)
    fields = {field: many[0] if len(many) == 1 else many for field, many in values.items()}
    context: SpanContext | None = None
    problems: list[Problem] = []
    try:
        context = _FORMATS[name].read(fields)
    except FormatError as error:
        then = _THEN.get(name, _NEW_TRACE)
        if name == "tracecontext" and "tracestate" in fields:
            then += ", and drops the tracestate"
        problems.append(Problem(error.field, error.reason, error.column, then))
    else:
        if name == "server-timing" and context is None:
            return None  # other metrics only
    problems += losses(name, _FORMATS[name], fields, context)
    if not problems and context is not None and context.labels.dropped:
        reason = f"labels that are malformed, or past 64 or {MAX_LABEL_BYTES} bytes: {context.labels.dropped}"
        problems.append(Problem(headers[-1].field, reason, None, "they are left out, the others are kept"))
    said = list(words(name, fields, context)) if context is not None else []
    return Found(name, headers, fields, context, said, problems, list(suspicions(name, fields, context)))


def _misspelled(message: Message) -> Iterator[str]:
    """Yield a warning for every name that is nearly that of a trace header."""
    known = {_letters(field): field for field in _OWNERS if field not in ("trace-id", "b3", "server-timing")}
    for name in list(dict.fromkeys(name for name, _ in message.fields))[:_MAX_NAMES]:
        if len(name) > 64 or not name.isascii():
            continue
        if message.is_environ:
            if name.lower() in _OWNERS and name != name.upper():
                yield f"{name} is not a variable that receivers read: did you mean {variable(name)}?"
            continue
        letters = _letters(name)
        if _owner(name.lower()) is None and any(word in letters for word in ("trace", "b3", "baggage")):
            near = difflib.get_close_matches(letters, known, n=1, cutoff=0.9)
            if near:
                yield f"{name} is no trace header: did you mean {known[near[0]]}?"


def _letters(name: str) -> str:
    return "".join([char for char in name.lower() if char not in "-_."])


def _disagreements(found: list[Found]) -> Iterator[str]:
    first: Found | None = None
    for one in found:
        if one.context is None or not ids_of(one.context)[0]:
            continue
        if first is None or first.context is None:
            first = one
            continue
        trace_id, other_id = ids_of(first.context)[0], ids_of(one.context)[0]
        if trace_id == other_id:
            continue
        pair = f"{first.format} and {one.format}"
        if (trace_id ^ other_id) & (2**64 - 1) == 0 and 0 in (trace_id >> 64, other_id >> 64):
            yield f"{pair} name traces that differ in the high 64 bits: one has lost them"
        else:
            yield f"{pair} name different traces: a receiver continues the one it reads first, and may link to the other"


def _plain(value: Any) -> Any:
    if isinstance(value, SpanContext):
        return {
            "trace_id": value.trace_id,
            "span_id": value.span_id,
            "flags": value.flags,
            "sampled": None if value.deferred else value.sampled,
            "state": list(value.state.items()),
            "labels": value.labels.members,
            "extra": {key: kept.hex() if isinstance(kept, bytes) else kept for key, kept in value.extra.items()},
        }
    if hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items() if key != "fields"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


# ---- a context in another format, and the values lost in it: found by reading the written headers back


def _convert(context: SpanContext, name: str, format: Any) -> Conversion:
    """Return *context* as the *format* called *name* writes it, with the values that are lost in it."""
    written: dict[str, Any] = {}
    format.write(context, written)
    back = None
    if written:
        try:
            back = format.read(written)
        except FormatError as error:  # tracekit writes none
            return Conversion(name, {}, [f"cannot be written: {error}"], [])
    headers = {
        field: binascii.b2a_base64(value, newline=False).rstrip(b"=").decode() if isinstance(value, bytes) else value
        for field, value in written.items()
    }
    if back is None:
        why = "there are no labels" if name == "baggage" else "it needs a trace id and a span id"
        return Conversion(name, {}, [f"nothing can be written: {why}"], [])
    return Conversion(name, headers, list(_changes(context, back, name)), list(_moves(context, name)))


def _changes(context: SpanContext, back: SpanContext, name: str) -> Iterator[str]:
    """Yield the values that a peer reads differently."""
    trace_id, span_id = ids_of(context)
    back_trace, back_span = ids_of(back)
    if trace_id != back_trace:
        yield "the ids and the decision are lost" if not back_trace else f"the trace id becomes {back.trace_id}"
    elif span_id != back_span:
        yield "the span id is lost"
    if trace_id == back_trace:
        if context.deferred and not back.deferred:
            yield f"no decision: it is sent as {'sampled' if back.sampled else 'not sampled'}"
        elif back.deferred and not context.deferred:
            yield "the decision is lost"
        if context.flags & 2 and not back.flags & 2:
            yield "the random flag is lost"
    if context.state and not back.state:
        yield f"the tracestate is lost: {', '.join(context.state)}"
    there = {(key, value): more for key, value, more in back.labels.members}
    members = context.labels.members
    lost = dict.fromkeys([key for key, value, _ in members if (key, value) not in there])
    if lost:
        where = "; they go to baggage" if name == "tracecontext" else ""
        yield f"labels are lost: {', '.join(lost)}{where}"
    bare = dict.fromkeys([key for key, value, more in members if more and not there.get((key, value), more)])
    if bare:
        yield f"the properties of labels are lost: {', '.join(bare)}"
    for key, kept in context.extra.items():
        if back.extra.get(key) != kept:
            words = [what for what, _ in pairs(kept) if what != "error"]
            what = ", ".join(dict.fromkeys(words)) if words else "debug" if kept == "d" else ""
            if what or not isinstance(kept, tuple):
                yield f"values of {_header_of(key)} are lost" + (f": {what}" if what else "")


def _header_of(key: str) -> str:
    return {"grpc_bin": "grpc-trace-bin", "seed": "trace-id"}.get(key, key)


def _moves(context: SpanContext, name: str) -> Iterator[str]:
    """Yield the values that a peer finds in another field, or in another spelling."""
    trace_id, span_id = ids_of(context)
    if not trace_id:
        return
    if name == "datadog":
        if trace_id >> 64:
            yield "x-datadog-trace-id: the high 64 bits go to x-datadog-tags"
        yield "the ids are sent in decimal"
    elif name == "cloudtrace" and span_id:
        yield "the span id is sent in decimal"
    elif name in ("b3", "b3multi", "jaeger", "ottrace") and not trace_id >> 64:
        yield "a trace id of 64 bits is sent in 16 digits"
    elif name == "seed" and context.span_id[0] == "0":
        yield "the span id is sent without its leading zeros"
