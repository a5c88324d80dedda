# cython: nonecheck=True
"""``OtelSpan``: a tracekit span as OpenTelemetry's API, and its SDK's processors and exporters, see it.

The API's method names collide with those of ``Span``, so each span has a face: it owns the span, and the span borrows
it. ``face()`` makes it at the first request, and returns the same one for as long as anything holds it.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Link as OtelLink
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import Status as OtelStatus

from ..._core.changes import amend
from ..._core.guard import acts_as, ask, type_name
from ..._core.misuse import misused
from ..._core.outcome import exception_events, mark_recorded, outcome_of
from ..._core.records import KINDS, Status
from ..._core.span import dropped_parts
from ..._version import __version__
from ...cython import binding, cclass, compiled, freelist, no_gc_clear
from .contexts import attributes_of

if not compiled:
    from ..._core.codecs import Entries
    from ..._core.guard import is_a
    from ..._core.interpreter import borrow, is_lent, lent
    from .contexts import from_otel, to_otel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeGuard

    from opentelemetry.trace import SpanContext as OtelContext

    from ..._core.span import Span

KIND_NAMES = {kind: kind.name.lower() for kind in SpanKind}
_KINDS = {name: kind for kind, name in KIND_NAMES.items()}
_STATUS_NAMES = {StatusCode.UNSET: "unset", StatusCode.OK: "ok", StatusCode.ERROR: "error"}
_CODES = {name: code for code, name in _STATUS_NAMES.items()}
# The arguments of the SDK's ReadableSpan.
_READABLE = "name context parent resource attributes events links kind status start_time end_time".split()  # noqa: SIM905
assert set(_KINDS) == set(KINDS)


if not compiled:

    def is_ours(given: object) -> TypeGuard[OtelSpan]:
        """Return whether *given* is an ``OtelSpan``. Not for a mock, which names another class as its own."""
        return issubclass(type(given), OtelSpan)


_changed: Any = None  # the class of new spans in place of OtelSpan, while a program has replaced methods of it


def use_class(kind: type[OtelSpan] | None) -> None:
    """Make new recorded spans of *kind*, whose methods are then called in every case; None: of ``OtelSpan``."""
    global _changed
    _changed = kind


def face(span: Span) -> OtelSpan:
    """Return OpenTelemetry's form of *span*."""
    found = lent(span._face)
    if found is None:
        is_usual = _changed is None or not span._is_recorded
        found = OtelSpan.__new__(OtelSpan) if is_usual else _changed.__new__(_changed)
        found.tracekit_span = span
        found._records = found._sets = True
        span._face = borrow(found)
    return found


def _fixed(name: str) -> property:
    """Return a private field of the SDK's that has the value of the public one. Changes are left out and reported."""

    def leave_out(*_: Any) -> None:
        misused(AttributeError(f"the {name} of a span of the bridge cannot be changed"))

    return property(attrgetter(name), leave_out)


class _Attributes(MutableMapping[str, Any]):
    """The attributes of a span under their private name, under which libraries change them."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def __getitem__(self, key: str) -> Any:
        return self._span.attributes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._span.attributes)

    def __len__(self) -> int:
        return len(self._span.attributes)

    def __setitem__(self, key: str, value: Any) -> None:
        replace_attributes(self._span, {**self._span.attributes, key: value})

    def __delitem__(self, key: str) -> None:
        items = dict(self._span.attributes)
        del items[key]
        replace_attributes(self._span, items)

    def __repr__(self) -> str:
        return repr(dict(self))


class _Parts(list[Any]):
    """The events or links of a span as a list, to which libraries append although it is private."""

    def __init__(self, parts: Any, span: OtelSpan) -> None:
        super().__init__(parts)
        self._span = span

    def append(self, part: Any) -> None:
        super().append(part)
        span = self._span
        name = "links" if isinstance(part, OtelLink) else "events"
        try:
            if span.tracekit_span.ended:
                setattr(span, f"_{name}", [*getattr(span, name), part])
            elif name == "links":
                span.add_link(part.context, part.attributes)
            else:
                span.add_event(part.name, part.attributes, part.timestamp)
        except Exception as error:  # not an event
            misused(error)

    def extend(self, parts: Any) -> None:
        for part in list(parts):
            self.append(part)


@no_gc_clear  # a cycle goes through an attribute of the program's, and its dict is cleared; see __dealloc__()
@freelist(64)
@binding(False)
@cclass
class OtelSpan:
    """A span of tracekit under OpenTelemetry's API; an instance of the SDK's ``ReadableSpan`` too, once that is loaded.

    No method raises. ``tracekit_span`` is the span itself. Attributes of others' (``span.anything = 1``) are kept for as
    long as this object lives: while the span is current, or something holds it.
    """

    if not compiled:
        tracekit_span: Span
        _records: bool  # what `with span:` does about an exception, as start_span() was told
        _sets: bool

    def __init__(self) -> None:
        raise TypeError("spans are made by Tracer.start_span()")

    def __dealloc__(self) -> None:
        if self.tracekit_span is not None and is_lent(self.tracekit_span._face, self):
            self.tracekit_span._face = borrow(None)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        if self.tracekit_span is not None and not self.tracekit_span._is_recorded:
            return NonRecordingSpan
        return OtelSpan if _sdk_span is None and not _has_sdk() else _sdk_span  # type: ignore[return-value]

    def get_span_context(self) -> OtelContext:
        """Return the span's context, the same object at every call."""
        return to_otel(self.tracekit_span.context)  # type: ignore[no-any-return]

    def is_recording(self) -> bool:
        """Tell whether further calls have an effect."""
        return self.tracekit_span._is_recorded and not self.tracekit_span._has_ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Record *value* under *key*."""
        span = self.tracekit_span
        if not span._is_recorded or span._has_ended:
            span._late("set_attribute")
        elif is_a(key, str) and key:
            span._put(key if type(key) is str else str.__str__(key), value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Record every item of *attributes*."""
        items = attributes_of(attributes)
        span = self.tracekit_span
        if not span._is_recorded or span._has_ended:
            span._late("set_attributes")
        elif items:
            span._put_all(items)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Record an event, now or at *timestamp*, Unix nanoseconds."""
        self.tracekit_span.add_event(text_of(name), attributes_of(attributes), time_ns=time_of(timestamp))

    def add_link(self, context: OtelContext, attributes: Any = None) -> None:
        """Record a link to *context*, unless it says nothing."""
        target = from_otel(context)
        if target is not None and (target.is_valid or attributes or target.state):
            self.tracekit_span.add_link(target, attributes_of(attributes))

    def update_name(self, name: str) -> None:
        """Rename the span."""
        self.tracekit_span.update_name(text_of(name))

    def set_status(self, status: OtelStatus | StatusCode, description: str | None = None) -> None:
        """Record the outcome; only an error has a description, and "ok" is final."""
        code: Any = status
        if acts_as(code, OtelStatus):
            if description is not None:
                misused(TypeError("set_status() takes a description with a StatusCode, not with a Status"))
            code, description = getattr(code, "status_code", None), getattr(code, "description", None)
        name = ask(_STATUS_NAMES.get, code)
        if name is not None:
            text = description if name == "error" and is_a(description, str) else ""
            self.tracekit_span.set_status(name, text)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Record *exception* as an event with type, message, stack and whether it left the span."""
        if is_a(exception, BaseException):
            more = {"exception.escaped": text_of(escaped), **(attributes_of(attributes) or {})}
            self.tracekit_span.record_exception(exception, more, time_ns=time_of(timestamp))

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at *end_time*, Unix nanoseconds. Only the first call counts."""
        self.tracekit_span.end(None if end_time is None else time_of(end_time))

    def __enter__(self) -> OtelSpan:
        return self

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            if exc is not None:
                leave(self, exc, self._records, self._sets, True)
        finally:  # a signal handler may raise there
            self.end()

    def __copy__(self, memo: Any = None) -> OtelSpan:
        return self

    __deepcopy__ = __copy__

    # From here on as the SDK's ReadableSpan.

    @property
    def name(self) -> str:
        """The span's name."""
        return self.tracekit_span.name

    @property
    def context(self) -> OtelContext:
        """The span's context."""
        return to_otel(self.tracekit_span.context)  # type: ignore[no-any-return]

    @property
    def parent(self) -> OtelContext | None:
        """The parent's context, or None."""
        parent = self.tracekit_span.parent
        return None if parent is None else to_otel(parent)

    @property
    def kind(self) -> SpanKind:
        """The span's kind."""
        return _KINDS[self.tracekit_span.kind]

    @property
    def start_time(self) -> int | None:
        """When the span started, Unix nanoseconds."""
        return self.tracekit_span.start_ns

    @property
    def end_time(self) -> int | None:
        """When the span ended, Unix nanoseconds, or None."""
        return self.tracekit_span.end_ns

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes, and ``tracekit.cancelled`` where the status is "cancelled", which OpenTelemetry lacks."""
        span = self.tracekit_span
        if span.status.code == "cancelled":
            return {**span.attributes, "tracekit.cancelled": span.status.description}
        return span.attributes

    @property
    def status(self) -> OtelStatus:
        """The outcome."""
        code, description = self.tracekit_span.status
        return OtelStatus(_CODES.get(code, StatusCode.UNSET), description or None if code == "error" else None)

    @property
    def events(self) -> tuple[Any, ...]:
        """The events."""
        span = self.tracekit_span
        make = sdk_class("opentelemetry.sdk.trace", "Event")
        parts = zip(span.events, dropped_parts(span)[1], strict=False)
        return tuple(
            [make(name=name, attributes=_bounded(items, lost), timestamp=at) for (name, at, items), lost in parts]
        )

    @property
    def links(self) -> tuple[OtelLink, ...]:
        """The links."""
        span = self.tracekit_span
        parts = zip(span.links, dropped_parts(span)[2], strict=False)
        return tuple([OtelLink(to_otel(context), _bounded(attributes, lost)) for (context, attributes), lost in parts])

    @property
    def resource(self) -> Any:
        """The resource, the SDK's ``Resource`` where that is installed."""
        return resource_of(self.tracekit_span.resource)

    @property
    def instrumentation_scope(self) -> Any:
        """The library that made the span; tracekit for a native span."""
        return scope_of(self.tracekit_span)

    @property
    def instrumentation_info(self) -> Any:
        """The library as the SDK's deprecated class, which warns."""
        return info_of(self.instrumentation_scope)

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were dropped, those of events and links apart: each has a count."""
        return self.tracekit_span.dropped_attributes and dropped_parts(self.tracekit_span)[0]

    @property
    def dropped_events(self) -> int:
        """How many events were dropped."""
        return self.tracekit_span.dropped_events

    @property
    def dropped_links(self) -> int:
        """How many links were dropped."""
        return self.tracekit_span.dropped_links

    def to_json(self, indent: int | None = 4) -> str:
        """Return the span as the SDK's console exporter prints it."""
        from opentelemetry.sdk.trace import ReadableSpan

        readable = ReadableSpan(**{name: getattr(self, name) for name in _READABLE})
        return str(readable.to_json(indent))

    def _readable_span(self) -> OtelSpan:
        return self

    # Fields of the SDK's spans that libraries read, and some write, although they are private. Not __getattr__(): it would
    # slow each call. A change made in on_end() still reaches the exporters, tracekit's too.

    _context = _fixed("context")
    _end_time = _fixed("end_time")
    _instrumentation_scope = _fixed("instrumentation_scope")
    _parent = _fixed("parent")
    _resource = _fixed("resource")
    _start_time = _fixed("start_time")

    @property
    def _limits(self) -> Any:
        tracer = self.tracekit_span._tracer
        make = sdk_class("opentelemetry.sdk.trace", "SpanLimits")
        return make(max_span_attributes=tracer.max_attributes, max_events=tracer.max_events, max_links=tracer.max_links)

    @property
    def _kind(self) -> Any:
        return self.kind

    @_kind.setter
    def _kind(self, kind: Any) -> None:
        name = ask(KIND_NAMES.get, kind)
        if name is not None and self.tracekit_span._is_recorded:
            self.tracekit_span._kind = name

    @property
    def _events(self) -> Any:
        return _Parts(self.events, self)

    @_events.setter
    def _events(self, events: Any) -> None:
        span = self.tracekit_span
        tracer = span._tracer
        made = _entries(span, events, tracer.max_events, tracer.max_event_attributes, _event)
        if made is not None:
            span._events = made

    @property
    def _links(self) -> Any:
        return _Parts(self.links, self)

    @_links.setter
    def _links(self, links: Any) -> None:
        span = self.tracekit_span
        tracer = span._tracer
        made = _entries(span, links, tracer.max_links, tracer.max_link_attributes, _link)
        if made is not None:
            span._links = made

    @property
    def _attributes(self) -> Any:
        return _Attributes(self)

    @_attributes.setter
    def _attributes(self, attributes: Any) -> None:
        replace_attributes(self, attributes)

    @property
    def _name(self) -> Any:
        return self.name

    @_name.setter
    def _name(self, name: Any) -> None:
        amend(self.tracekit_span, str.__str__(text_of(name)), None, None)

    @property
    def _status(self) -> Any:
        return self.status

    @_status.setter
    def _status(self, status: Any) -> None:
        name = ask(_STATUS_NAMES.get, status.status_code) if isinstance(status, OtelStatus) else None
        if name is not None:
            amend(self.tracekit_span, None, None, Status(name, status.description or ""))

    def __repr__(self) -> str:
        return f"<OtelSpan of {self.tracekit_span!r}>"


ApiSpan.register(OtelSpan)
_sdk_span: type | None = None  # the class of the SDK's spans, once it is loaded


def _has_sdk() -> bool:
    """Look for the SDK, which the program may import at any time."""
    global _sdk_span
    found = getattr(sys.modules.get("opentelemetry.sdk.trace"), "_Span", None)
    if isinstance(found, type):
        _sdk_span = found
    return _sdk_span is not None


def _entries(
    span: Span, parts: Any, most: int, most_attributes: int, read: Callable[[Any], tuple[Any, int]]
) -> Entries | None:
    """Return *parts*, events or links, as *span* records them; None if it does not, or if they are no such objects."""
    if not span._is_recorded:
        return None
    made = Entries()
    try:
        for part in list(parts)[:most]:
            given = attributes_of(part.attributes)
            items = span._clean(given, most_attributes, span._tracer.max_part_value) if given else None
            content, time_ns = read(part)
            if content is not None:
                made.append(content, time_ns, items)
    except Exception as error:
        misused(error)
        return None
    return made


def _event(event: Any) -> tuple[str, int]:
    return str.__str__(text_of(event.name)), time_of(event.timestamp) or 0


def _link(link: Any) -> tuple[Any, int]:
    return from_otel(link.context), 0


def replace_attributes(made: OtelSpan, attributes: Any) -> None:
    """Record *attributes* in place of those of the span, which may have ended, for a processor."""
    items = dict(attributes_of(attributes) or {})
    if made.tracekit_span.status.code == "cancelled":
        items.pop("tracekit.cancelled", None)  # which the status says
    amend(made.tracekit_span, None, items, None)


def leave(made: OtelSpan, exc: BaseException, records: bool, sets_status: bool, escaped: bool) -> None:
    """Record that *exc* leaves *made*, as ``with span:`` does: once a trace, and a cancellation is no error.

    *escaped* is True where the span itself is the context manager, and False in ``use_span()``, as in the SDK.
    """
    span = made.tracekit_span
    if not span._is_recorded or span._has_ended or not (records or sets_status):
        return
    if type(made) is not OtelSpan:
        _leave_by_methods(made, exc, records, sets_status, escaped)
        return
    try:
        outcome = outcome_of(exc, span.context.trace_id, span._tracer.max_value)
        if records:
            for error, recorded in exception_events(outcome.errors, span._tracer.limits):
                span.add_event("exception", {**recorded, "exception.escaped": str(escaped)})
                mark_recorded(error, span.context.trace_id)
        if sets_status:
            span.set_status(outcome.code, outcome.description)
    except Exception:  # the recursion limit
        if sets_status:
            span.set_status("error")


def _leave_by_methods(made: OtelSpan, exc: BaseException, records: bool, sets_status: bool, escaped: bool) -> None:
    """Record *exc* as the API's ``use_span()`` does: by the methods, which a program has replaced."""
    if isinstance(exc, Exception):
        if records:
            made.record_exception(exc, **({"escaped": True} if escaped else {}))
        if sets_status:
            made.set_status(StatusCode.ERROR, f"{type_name(exc)}: {text_of(exc)}")


def resource_of(attributes: Mapping[str, Any]) -> Any:
    """Return the resource with *attributes*: the SDK's class where it can be imported, else one with its fields."""
    known = _known(attributes)
    if known is None:
        make = sdk_class("opentelemetry.sdk.resources", "Resource")
        known = keep_form(attributes, make(attributes=dict(attributes), schema_url=""))
    return known


def scope_of(span: Span) -> Any:
    """Return the instrumentation scope of *span*: the SDK's class where it can be imported, else one with its fields."""
    library = span.instrumentation
    known = _known(library)
    if known is None:
        name, version, url, attributes = ("tracekit", __version__, "", {}) if library is None else library
        make = sdk_class("opentelemetry.sdk.util.instrumentation", "InstrumentationScope")
        made = make(name=name, version=version, schema_url=url, attributes=dict(attributes))
        known = keep_form(library, made)
    return known


def info_of(scope: Any) -> Any:
    """Return *scope* as the SDK's deprecated class, which warns."""
    make = sdk_class("opentelemetry.sdk.util.instrumentation", "InstrumentationInfo")
    return make(name=scope.name, version=scope.version, schema_url=scope.schema_url)


_forms: dict[int, tuple[Any, Any]] = {}  # OpenTelemetry's form of resources and libraries, by their identity


def _known(ours: Any) -> Any:
    found = _forms.get(id(ours))
    return found[1] if found is not None and found[0] is ours else None


def keep_form(ours: Any, form: Any) -> Any:
    """Have ``resource_of()`` and ``scope_of()`` return *form* for the very object *ours*, and return it."""
    if len(_forms) >= 4096:  # a program that makes providers or tracers without end
        _forms.clear()
    _forms[id(ours)] = ours, form
    return form


def sdk_class(module: str, name: str) -> Callable[..., Any]:
    """Return the class *name* of the SDK's *module*; where it cannot be imported, one that has its arguments as fields."""
    try:
        made: Callable[..., Any] = getattr(__import__(module, fromlist=[name]), name)
    except (ImportError, AttributeError):
        return _Fields
    return made


class _Fields(SimpleNamespace):
    """The arguments as fields; equal and hashed by identity: exporters group spans by resource and scope."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]


def _bounded(attributes: Mapping[str, Any], dropped: int) -> Mapping[str, Any]:
    """Return *attributes* of an event or a link in the class that has the number of those that were dropped."""
    if not dropped:
        return attributes
    made = BoundedAttributes(attributes=dict(attributes))
    made.dropped = dropped
    return made


def text_of(name: Any) -> str:
    """Return *name*, of any type, as text."""
    if is_a(name, str):
        return name
    found = ask(str, name)
    return type_name(name) if found is None else found


def time_of(time_ns: Any) -> int | None:
    """Return *time_ns* as an int, or None where it is none: now."""
    return None if time_ns is None else ask(int, time_ns)
