"""Send spans to a real OpenTelemetry Collector, compare every field it received, and interrupt it while a spool is used.

``make collector``, or ``python -m tests.tools.collector``. The Collector is built with Go from ``main.go``, once; its
configuration is ``examples/collector/``.
"""
