"""OpenTracing's API on tracekit: code that is instrumented for it makes tracekit's spans, in tracekit's traces.

    tracekit.configure(service="shop", exporter=...)
    opentracing.set_global_tracer(tracekit.bridges.opentracing.Tracer())

Needs ``tracekit-async[opentracing]``. docs/migrating.md lists the words of both APIs and the differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import opentracing
from opentracing import Format, ReferenceType

from .. import _carriers, _configure
from .._core.changes import resample
from .._core.context import Link
from .._core.context import SpanContext as TracekitContext
from .._core.guard import acts_as, is_a, type_name
from .._core.misuse import misused
from .._core.span import ROOT, start_with
from .._core.span import Span as TracekitSpan
from ._opentracing.scopes import Scope, ScopeManager, patch_no_parent_scope
from ._opentracing.spans import Span, SpanContext, items_of, kind_of, nanoseconds, plain, priority_of, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Scope", "ScopeManager", "Span", "SpanContext", "Tracer"]

_TEXT = (Format.TEXT_MAP, Format.HTTP_HEADERS)
_MAX_BYTES = 1 << 16  # as extract() reads of a carrier
_REF_TYPE = "opentracing.ref_type"  # OpenTelemetry's name of it


class Tracer(opentracing.Tracer):  # type: ignore[misc]
    """OpenTracing's Tracer. Its spans are sampled and exported as ``tracekit.configure()`` says.

    *scope_manager* is ignored: the active span is the one that is current in tracekit, which follows tasks, threads and
    greenlets. TEXT_MAP and HTTP_HEADERS carry the configured formats, BINARY the same fields as octets.
    """

    def __init__(self, scope_manager: Any = None) -> None:
        super().__init__(ScopeManager(self))
        patch_no_parent_scope()

    @property
    def active_span(self) -> Span | Any:
        """The current span, or None."""
        scope = self.scope_manager.active
        return None if scope is None else scope.span

    def start_active_span(
        self,
        operation_name: str,
        child_of: Any = None,
        references: Any = None,
        tags: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        ignore_active_span: bool = False,
        finish_on_close: bool = True,
    ) -> Scope:
        """Start a span and make it current; ``with``, or ``close()`` of the returned scope, ends both."""
        span = self.start_span(operation_name, child_of, references, tags, start_time, ignore_active_span)
        made: Scope = self.scope_manager.activate(span, finish_on_close)
        return made

    def start_span(
        self,
        operation_name: str | None = None,
        child_of: Any = None,
        references: Any = None,
        tags: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        ignore_active_span: bool = False,
    ) -> Span:
        """Start a span, child of the current one or of the first reference; the caller finishes it.

        References "child of" come before "follows from" here. Each "follows from" is a link, and so is every reference
        after the first.
        """
        parent, links = _relations(child_of, references)
        if parent is None and ignore_active_span:
            parent = ROOT
        given = {} if tags is None else {key: plain(value) for key, value in items_of(tags, "tags").items()}
        tracer = _configure.tracer_in_use()
        start_ns = nanoseconds(start_time, "start_time")
        name = text_of(operation_name)
        made = start_with(tracer, name, kind_of(given.get("span.kind")), given or None, links, parent, start_ns)
        priority = priority_of(given.get("sampling.priority"))
        if priority is not None and priority != made.context.sampled:
            resample(made, priority, start_ns)
            made.set_attributes(given)
        if tracer.hooks is not None and made.is_recording:
            tracer.hooks.started(made, None)
        span = Span.of(self, made)
        if "error" in given:
            span.set_tag("error", given["error"])
        return span

    def inject(self, span_context: Any, format: Any, carrier: Any) -> None:
        """Write *span_context*, a span's context or a span, into *carrier*, a mapping or, for BINARY, a bytearray."""
        _check_format(format)
        _, context = _target(span_context)
        if context is None:
            misused(TypeError(f"span_context must be a SpanContext of this tracer, not {type_name(span_context)}"))
        elif format in _TEXT:
            _carriers.inject(carrier, context)
        else:
            _write_binary(carrier, context)

    def extract(self, format: Any, carrier: Any) -> SpanContext | None:
        """Return the context in *carrier*, or None if there is none or it is malformed."""
        _check_format(format)
        found = _carriers.extract(carrier) if format in _TEXT else _read_binary(carrier)
        return None if found is None else SpanContext(found)


def _write_binary(carrier: Any, context: TracekitContext) -> None:
    """Append *context* to *carrier*, a bytearray, in the format BINARY, which OpenTracing leaves to the tracer.

    It has the configured formats' fields, as UTF-8: ``binary = *( name ":" value LF )``
    """
    if not is_a(carrier, bytearray):
        misused(TypeError(f"carrier must be a bytearray, not {type_name(carrier)}"))
        return
    fields: dict[str, str] = _carriers.inject({}, context)
    carrier.extend("".join([f"{name}:{value}\n" for name, value in fields.items()]).encode())


def _read_binary(carrier: Any) -> TracekitContext | None:
    """Return the context in *carrier*, octets, or None."""
    if not (is_a(carrier, bytes) or is_a(carrier, bytearray) or is_a(carrier, memoryview)):
        misused(TypeError(f"carrier must be a bytearray or bytes, not {type_name(carrier)}"))
        return None
    try:
        octets = bytes(carrier[: _MAX_BYTES + 1])
        text = octets.decode() if len(octets) <= _MAX_BYTES else ""
    except Exception:  # not UTF-8, or a memoryview that was released
        return None
    pairs = [tuple(line.split(":", 1)) for line in text.split("\n") if ":" in line]
    return _carriers.extract(pairs)


def _check_format(format: Any) -> None:
    if format not in _TEXT and format != Format.BINARY:
        raise opentracing.UnsupportedFormatException(format)


def _target(given: Any) -> tuple[Any, Any]:
    """Return the parent that *given* stands for, a Span or a SpanContext of tracekit, and its context."""
    if acts_as(given, Span):
        given = getattr(given, "tracekit_span", None)
    elif acts_as(given, SpanContext):
        given = getattr(given, "tracekit_context", None)
    if is_a(given, TracekitSpan):
        return given, given.context
    return (given, given) if is_a(given, TracekitContext) else (None, None)


def _relations(child_of: Any, references: Any) -> tuple[Any, tuple[Link, ...]]:
    """Return the parent that *child_of* and *references* name, and the links."""
    named = [] if child_of is None else [(ReferenceType.CHILD_OF, child_of)]
    try:
        given = [references] if isinstance(references, opentracing.Reference) else list(references or ())
    except Exception:  # not an iterable, or one that fails
        misused(TypeError(f"references must be an iterable of references, not {type_name(references)}"))
        given = []
    named += [(item.type, item.referenced_context) for item in given if acts_as(item, opentracing.Reference)]
    named.sort(key=lambda item: item[0] != ReferenceType.CHILD_OF)
    chosen = None
    links = []
    for type, target in named:
        parent, context = _target(target)
        if parent is None:
            continue  # None, or of another tracer
        is_first = chosen is None
        if is_first:
            chosen = parent
        if context.is_valid and (not is_first or type != ReferenceType.CHILD_OF):
            links.append(Link(context, {_REF_TYPE: text_of(type)}))
    return chosen, tuple(links)
