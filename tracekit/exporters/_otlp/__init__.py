"""Parts of the OTLP exporter."""
