"""Names that users try first, and the names here."""

from __future__ import annotations

_INSTEAD = {
    "ConsoleExporter": "from tracekit.exporters.console import ConsoleExporter",
    "MemoryExporter": "from tracekit.testing import MemoryExporter",
    "OTLPExporter": "from tracekit.exporters.otlp import OTLPExporter",
    "SQLiteExporter": "from tracekit.exporters.sqlite import SQLiteExporter",
    "add_event": "tracekit.current_span().add_event(name)",
    "get_current_span": "tracekit.current_span()",
    "get_tracer": "tracekit.span(name): there is one tracer, set up by tracekit.configure()",
    "get_tracer_provider": "tracekit.configure(...)",
    "init": "tracekit.configure(...)",
    "instrumentation": "tracekit.instrument()",
    "patch": "tracekit.instrument()",
    "patch_all": "tracekit.instrument()",
    "record_exception": "tracekit.current_span().record_exception(error)",
    "set_attribute": "tracekit.current_span().set_attribute(key, value)",
    "set_baggage": "with tracekit.use_labels(key=value): ...",
    "set_tag": "tracekit.current_span().set_attribute(key, value)",
    "set_tracer_provider": "tracekit.configure(exporter=...)",
    "setup": "tracekit.configure(...)",
    "start_active_span": "with tracekit.span(name): ...",
    "start_as_current_span": "with tracekit.span(name): ...",
    "start_span": "tracekit.span(name): with `with` it is current, without call end()",
    "start_transaction": "with tracekit.span(name, parent=tracekit.ROOT): ...",
    "trace": "with tracekit.span(name): ..., or @tracekit.traced",
    "tracer": "tracekit.span(name): there is one tracer, set up by tracekit.configure()",
}


def explain(name: str) -> str:
    """Return the message of the AttributeError for *name* in the module ``tracekit``."""
    message = f"module 'tracekit' has no attribute {name!r}"
    return f"{message}; write {_INSTEAD[name]}" if name in _INSTEAD else message
