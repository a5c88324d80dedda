"""The wire lab: what the trace headers of a message say, what is wrong with them, and how other formats would say it.

``examine()`` asks the formats themselves, each for its own fields, and ``extract`` for all of them together. What it
says of a conversion it learns by reading back what the other format has written.
"""

from __future__ import annotations

import binascii
import difflib
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _propagation
from ._accel import (
    MAX_LABEL_BYTES,
    MAX_STATE_CHARS,
    SpanContext,
    ids_of,
    is_label_key,
    is_state_key,
    is_state_value,
    join_baggage,
    parse_baggage,
)
from ._dumps import DumpError, Message
from ._errors import FormatError, clip
from ._header_words import Word, pairs, words
from ._tracestate import TraceState
from .wire.b3 import MULTI, SINGLE
from .wire.cloudtrace import CLOUDTRACE
from .wire.datadog import DATADOG
from .wire.environ import ENVIRON, fields_of, variable
from .wire.grpc_bin import BINARY
from .wire.jaeger import JAEGER
from .wire.ottrace import OTTRACE
from .wire.seed_header import SEED
from .wire.server_timing import SERVER_TIMING
from .wire.w3c import BAGGAGE, TRACECONTEXT
from .wire.xray import XRAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .wire import Format

__all__ = ["Conversion", "Found", "Header", "Problem", "Report", "examine"]

# In the order in which a message's contexts are put together; the names are those of --to.
_FORMATS: dict[str, Format] = {
    "tracecontext": TRACECONTEXT,
    "baggage": BAGGAGE,
    "b3": SINGLE,
    "b3multi": MULTI,
    "jaeger": JAEGER,
    "xray": XRAY,
    "ottrace": OTTRACE,
    "datadog": DATADOG,
    "cloudtrace": CLOUDTRACE,
    "grpc": BINARY,
    "seed": SEED,
    "server-timing": SERVER_TIMING,
}
_TARGETS: dict[str, Any] = {**_FORMATS, "environ": ENVIRON}
_OWNERS = {field: name for name, format in _FORMATS.items() for field in format.fields}
_PREFIXES = {prefix: name for name, format in _FORMATS.items() for prefix in getattr(format, "prefixes", ())}
_VARIABLES = frozenset(map(variable, _OWNERS))
_STARTS = tuple(map(variable, _PREFIXES))

_NEW_TRACE = "a receiver starts a new trace"
_THEN = {
    "server-timing": "the caller learns nothing of the trace",
    "seed": f"{_NEW_TRACE}; or the header is somebody else's, who calls it the same",
}
_EXAMPLES = {"4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"}
_MAX_PROBLEMS = 8  # of one kind, in one header
_MAX_NAMES = 1000
_MAX_HEADERS = 1000  # of trace headers in one message; extract() stops far below


class Problem(NamedTuple):
    """What is wrong with a field, at which column (from 1) if that is one place, and what follows from it."""

    field: str
    reason: str
    column: int | None
    then: str


class Header(NamedTuple):
    """A header or variable as it came, and the field that a format has it as."""

    field: str
    name: str
    value: str


class Found(NamedTuple):
    """The headers of one format in a message."""

    format: str
    headers: list[Header]
    fields: dict[str, str | list[str]]  # what the format was given to read
    context: SpanContext | None
    words: list[Word]
    problems: list[Problem]
    warnings: list[str]


class Conversion(NamedTuple):
    """A message's context in another format, what that cannot carry, and what it spells in another way."""

    format: str
    headers: dict[str, str]
    lost: list[str]
    notes: list[str]


class Report(NamedTuple):
    """All that was found in one message, and its context as ``extract()`` would return it with all formats configured."""

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
        return {
            "title": self.title,
            "is_environ": self.is_environ,
            "ok": self.ok,
            "found": [
                {
                    "format": found.format,
                    "ok": not found.problems,
                    "headers": [header._asdict() for header in found.headers],
                    "context": _plain_context(found.context),
                    "words": [word._asdict() for word in found.words],
                    "problems": [problem._asdict() for problem in found.problems],
                    "warnings": found.warnings,
                }
                for found in self.found
            ],
            "context": _plain_context(self.context),
            "warnings": self.warnings,
            "conversions": [conversion._asdict() for conversion in self.conversions],
        }


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
    warnings = [*_misspelt(message), *_disagreements(found)]
    if len(headers) > _MAX_HEADERS:
        warnings.append(f"more than {_MAX_HEADERS} trace headers: the others were not looked at")
    conversions = [_convert(context, name) for name in targets] if context is not None else []
    return Report(message.title, message.is_environ, found, context, warnings, conversions)


def _headers_in(message: Message) -> Iterator[Header]:
    """Give the trace headers of *message*, of an environment the variables."""
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
    problems += _losses(name, fields, context)
    if not problems and context is not None and context.labels.dropped:
        reason = f"labels that are malformed, or past 64 or {MAX_LABEL_BYTES} bytes: {context.labels.dropped}"
        problems.append(Problem(headers[-1].field, reason, None, "they are left out, the others stand"))
    said = list(words(name, fields, context)) if context is not None else []
    return Found(name, headers, fields, context, said, problems, list(_suspicions(name, fields, context)))


# What is wrong beyond what the format refuses as a whole: what extract() leaves out without a word.


def _losses(name: str, fields: dict[str, str | list[str]], context: SpanContext | None) -> Iterator[Problem]:
    if name == "tracecontext" and "tracestate" in fields:
        stands = "; the traceparent stands" if context is not None else ""
        yield from _state_losses(fields["tracestate"], f"a receiver drops the tracestate{stands}")
    elif name == "baggage":
        yield from _baggage_losses(fields["baggage"])
    elif name in ("jaeger", "ottrace"):
        yield from _label_losses(name, fields)
    elif name == "grpc" and "grpc-tags-bin" in fields:
        try:
            BINARY.read({"grpc-tags-bin": fields["grpc-tags-bin"]})
        except FormatError as error:
            if context is not None:
                yield Problem(error.field, error.reason, error.column, "the labels are left out, the ids stand")
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
        # The last may be cut: what is past the limit is said below.
        if piece.strip(" \t") and not parse_baggage(piece)[0] and start + len(piece) <= MAX_LABEL_BYTES + 1:
            bad += 1
            if bad <= _MAX_PROBLEMS:
                reason, offset = _baggage_reason(piece)
                column = start + offset if is_one else None
                yield Problem("baggage", reason, column, "this label is left out, the others stand")
        start += len(piece) + 1
    more = parse_baggage(text)[1] - min(bad, _MAX_PROBLEMS)
    if more > 0:
        reason = f"members that are malformed, or past 64 or {MAX_LABEL_BYTES} characters: {more}"
        yield Problem("baggage", reason, None, "they are left out, the others stand")


def _baggage_reason(piece: str) -> tuple[str, int]:
    """Return what is wrong with a member, and how far from its start."""
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


def _label_losses(name: str, fields: dict[str, str | list[str]]) -> Iterator[Problem]:
    then = "this label is left out, the others stand"
    for field, value in fields.items():
        if field == "jaeger-baggage":
            try:
                context = JAEGER.read({field: value})
            except FormatError:
                continue
            is_empty = isinstance(value, str) and not value.strip(", \t")
            if (context is None and not is_empty) or (context is not None and context.labels.dropped):
                yield Problem(field, "must be key=value,key=value, of at most 8192 characters", None, then)
        elif field not in _FORMATS[name].fields and _FORMATS[name].read({field: value}) is None:
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


# What is legal, and still seldom meant.


def _suspicions(name: str, fields: dict[str, str | list[str]], context: SpanContext | None) -> Iterator[str]:
    for field, value in fields.items():
        is_quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        if is_quoted and field not in ("server-timing", "baggage"):
            yield f"{field}: the quotes are part of the value: take them off"
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
        yield "the trace id is the specification's example: who always sends it makes one trace of all requests"
    if trace_id and not span_id and name != "xray":
        yield "a trace without a span: a receiver has no parent for its own"
    if name == "tracecontext" and context.flags & ~3:
        yield f"flags {context.flags & ~3:#04x} are unknown: they go out as 0"
    if name == "datadog" and isinstance(tags := fields.get("x-datadog-tags"), str) and len(tags) <= 512:
        private = [key for tag in tags.split(",") if (key := tag.partition("=")[0]) and not key.startswith("_dd.p.")]
        if private:
            yield f"tags that do not begin with _dd.p. are not for propagation: {', '.join(private[:8])}"


def _misspelt(message: Message) -> Iterator[str]:
    """Give a warning for every name that is nearly that of a trace header."""
    known = {_letters(field): field for field in _OWNERS if field not in ("trace-id", "b3", "server-timing")}
    for name in list(dict.fromkeys(name for name, _ in message.fields))[:_MAX_NAMES]:
        if len(name) > 64 or not name.isascii():
            continue
        if message.is_environ:
            if name.lower() in _OWNERS and name != name.upper():
                yield f"{name} is no variable that anybody reads: did you mean {variable(name)}?"
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


# The same in another format.


def _convert(context: SpanContext, name: str) -> Conversion:
    written: dict[str, Any] = {}
    _TARGETS[name].write(context, written)
    back = None
    if written:
        try:
            back = _TARGETS[name].read(written)
        except FormatError as error:  # nothing of ours writes such
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
    """Give what is another when a peer reads what was written."""
    trace_id, span_id = ids_of(context)
    back_trace, back_span = ids_of(back)
    if trace_id != back_trace:
        yield "the ids and the decision are lost" if not back_trace else f"the trace id becomes {back.trace_id}"
    elif span_id != back_span:
        yield "the span id is lost"
    if trace_id == back_trace:
        if context.deferred and not back.deferred:
            yield f"nobody has decided: it goes out as {'sampled' if back.sampled else 'not sampled'}"
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
        said = back.extra.get(key)
        if said != kept:
            words = [what for what, _ in pairs(kept) if what != "error"]
            what = ", ".join(dict.fromkeys(words)) if words else "debug" if kept == "d" else ""
            if what or not isinstance(kept, tuple):
                yield f"what {_said_by(key)} said is lost" + (f": {what}" if what else "")


def _said_by(key: str) -> str:
    return {"grpc_bin": "grpc-trace-bin", "seed": "trace-id"}.get(key, key)


def _moves(context: SpanContext, name: str) -> Iterator[str]:
    """Give what a peer finds in another place, or spelt in another way."""
    trace_id, span_id = ids_of(context)
    if not trace_id:
        return
    if name == "datadog":
        if trace_id >> 64:
            yield "x-datadog-trace-id: the high 64 bits go to x-datadog-tags"
        yield "the ids go out in decimal"
    elif name == "cloudtrace" and span_id:
        yield "the span id goes out in decimal"
    elif name in ("b3", "b3multi", "jaeger", "ottrace") and not trace_id >> 64:
        yield "a trace id of 64 bits goes out in 16 digits"
    elif name == "seed" and context.span_id[0] == "0":
        yield "the span id goes out without its leading zeros"


def _plain_context(context: SpanContext | None) -> dict[str, Any] | None:
    if context is None:
        return None
    return {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "flags": context.flags,
        "sampled": None if context.deferred else context.sampled,
        "state": [[key, value] for key, value in context.state.items()],
        "labels": [[key, value, [list(pair) for pair in more]] for key, value, more in context.labels.members],
        "extra": {key: kept.hex() if isinstance(kept, bytes) else kept for key, kept in context.extra.items()},
    }
