"""Tracing for asynchronous Python: a trace that follows your work, over every hand-off, to any backend."""

from ._accel import IMPLEMENTATION, ROOT, Span, SpanContext, current_context, current_span, span
from ._current import current_labels, from_context, new_context, use_context, use_labels, use_span
from ._delivery import Delivery
from ._errors import FormatError
from ._handoff import Snapshot, capture, detached, wrap
from ._hooks import install_hooks, remove_hooks
from ._labels import Labels
from ._propagation import extract, inject
from ._records import Account, Event, Limits, Link, Statistics, Status
from ._sampling import AlwaysOff, AlwaysOn, Rate, Ratio, Sampler
from ._traced import stream, traced
from ._tracer import Exporter, configure, flush, shutdown, statistics
from ._tracestate import TraceState
from ._version import __version__

__all__ = [
    "IMPLEMENTATION",
    "ROOT",
    "Account",
    "AlwaysOff",
    "AlwaysOn",
    "Delivery",
    "Event",
    "Exporter",
    "FormatError",
    "Labels",
    "Limits",
    "Link",
    "Rate",
    "Ratio",
    "Sampler",
    "Snapshot",
    "Span",
    "SpanContext",
    "Statistics",
    "Status",
    "TraceState",
    "__version__",
    "capture",
    "configure",
    "current_context",
    "current_labels",
    "current_span",
    "detached",
    "extract",
    "flush",
    "from_context",
    "inject",
    "install_hooks",
    "new_context",
    "remove_hooks",
    "shutdown",
    "span",
    "statistics",
    "stream",
    "traced",
    "use_context",
    "use_labels",
    "use_span",
    "wrap",
]
