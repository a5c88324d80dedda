"""Bridges to other tracing APIs, whose libraries then run on tracekit's spans and scopes."""
