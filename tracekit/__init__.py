"""Tracing for asynchronous Python: a trace that follows your work, over every hand-off, to any backend."""

from ._configure import configure, flush, shutdown, statistics
from ._core.errors import FormatError
from ._core.labels import Labels
from ._core.records import Account, Event, Limits, Link, Statistics, Status
from ._core.tracestate import TraceState
from ._core.twin import IMPLEMENTATION, ROOT, Span, SpanContext, current_context, current_span, span
from ._current import current_labels, from_context, new_context, use_context, use_labels, use_span
from ._export.exporter import Exporter
from ._handoffs.by_hand import Snapshot, capture, detached, wrap
from ._handoffs.delivery import Delivery
from ._handoffs.hooks import install_hooks, remove_hooks
from ._handoffs.traced import stream, traced
from ._propagation import extract, inject
from ._sampling import AlwaysOff, AlwaysOn, Rate, Ratio, Sampler, adjusted_count
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
    "adjusted_count",
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
