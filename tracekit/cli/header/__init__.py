"""The command ``tracekit header``."""
