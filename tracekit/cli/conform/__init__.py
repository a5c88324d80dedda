"""The command ``tracekit conform``."""
