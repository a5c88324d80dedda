"""The parts that lower modules load by name when they are needed, because those parts import these modules.

Each is a module and a name in it. Only names: this module imports and loads nothing.
"""

from __future__ import annotations

# The exporters that OTEL_TRACES_EXPORTER can name.
EXPORTERS = {
    "otlp": ("tracekit.exporters.otlp", "OTLPExporter"),
    "console": ("tracekit.exporters.console", "ConsoleExporter"),
    "sqlite": ("tracekit.exporters.sqlite", "SQLiteExporter"),
}
# For TRACEKIT_DEBUG_PAGES.
DEBUG_PAGES = "tracekit.debug._server", "serve_once"
# Installed before the first instrumentor of OpenTelemetry.
BRIDGE = "tracekit.bridges.opentelemetry", "install"
