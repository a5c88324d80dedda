"""Tracing for asynchronous Python: a trace that follows your work, over every hand-off, to any backend."""

import sys

from ._core.codecs import IMPLEMENTATION  # first: _core chooses between the compiled files and their sources

# isort: split
from ._configure import configure, flush, shutdown, statistics
from ._core.context import Link, SpanContext
from ._core.errors import FormatError
from ._core.labels import Labels
from ._core.records import Account, Event, Limits, Statistics, Status
from ._core.scopes import current_context, current_span
from ._core.span import ROOT, Span, span
from ._core.tracestate import TraceState
from ._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._current import current_labels, from_context, new_context, use_context, use_labels, use_span
    from ._event_logs import EventLog, event_log
    from ._export.exporter import Exporter, HoldingExporter
    from ._handoffs.by_hand import Snapshot, capture, detached, wrap
    from ._handoffs.delivery import Delivery
    from ._handoffs.hooks import install_hooks, remove_hooks
    from ._handoffs.traced import stream, traced
    from ._instrument import instrument, uninstrument
    from ._propagation import extract, extract_all, inject
    from ._sampling import AlwaysOff, AlwaysOn, Rate, Ratio, Sampler, adjusted_count
    from ._signals import flush_on_signal

__all__ = [
    "IMPLEMENTATION",
    "ROOT",
    "Account",
    "AlwaysOff",
    "AlwaysOn",
    "Delivery",
    "Event",
    "EventLog",
    "Exporter",
    "FormatError",
    "HoldingExporter",
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
    "event_log",
    "extract",
    "extract_all",
    "flush",
    "flush_on_signal",
    "from_context",
    "inject",
    "install_hooks",
    "instrument",
    "new_context",
    "remove_hooks",
    "shutdown",
    "span",
    "statistics",
    "stream",
    "traced",
    "uninstrument",
    "use_context",
    "use_labels",
    "use_span",
    "wrap",
]


# The other names, by module, which is imported when the first of its names is used.
_LATER = {
    "._current": ("current_labels", "from_context", "new_context", "use_context", "use_labels", "use_span"),
    "._event_logs": ("EventLog", "event_log"),
    "._export.exporter": ("Exporter", "HoldingExporter"),
    "._handoffs.by_hand": ("Snapshot", "capture", "detached", "wrap"),
    "._handoffs.delivery": ("Delivery",),
    "._handoffs.hooks": ("install_hooks", "remove_hooks"),
    "._handoffs.traced": ("stream", "traced"),
    "._instrument": ("instrument", "uninstrument"),
    "._propagation": ("extract", "extract_all", "inject"),
    "._sampling": ("AlwaysOff", "AlwaysOn", "Rate", "Ratio", "Sampler", "adjusted_count"),
    "._signals": ("flush_on_signal",),
}


def _claim(names: list[str]) -> None:
    """Set ``__module__`` of the public objects to this package, from which users import them."""
    package = sys.modules[__name__]
    for name in names:
        value = getattr(package, name, None)  # which loads the module that -X lazy_imports=all left out
        if hasattr(value, "__qualname__") and value.__module__ != __name__:
            value.__module__ = __name__


_claim(__all__)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for module, names in _LATER.items():
            if name in names:
                home = __import__(module.lstrip("."), globals(), None, names, 1)
                made = [each for each in names if each not in globals()]  # those that the program has set stay
                globals().update({each: getattr(home, each) for each in made})
                _claim(made)
                return globals()[name]
        from ._words import explain

        raise AttributeError(explain(name), name=name, obj=sys.modules[__name__])

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
