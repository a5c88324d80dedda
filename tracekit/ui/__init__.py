"""``tracekit ui``: an OTLP receiver in front of a SQLite store, and pages that show the store; the extra ``ui``."""
