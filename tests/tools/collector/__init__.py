"""Send spans to real OpenTelemetry Collectors: every field, tail sampling, odd peers, and interruptions with a spool.

``make collector``, or ``python -m tests.tools.collector``. A Collector is built with Go from ``main.go``, an older one with
tail_sampling from ``sampling_module/``, once; their configuration is ``examples/collector/``.
"""
