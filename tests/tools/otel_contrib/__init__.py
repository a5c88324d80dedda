"""OpenTelemetry's own test suites, run once on its SDK and once on tracekit's bridge: ``make otel-contrib CONTRIB=PATH``.

    python -m tests.tools.otel_contrib PATH [--sdk PATH] [--only SUITE]

The first PATH is a checkout of opentelemetry-python-contrib, the second one of opentelemetry-python, whose tests of
traces are run too; neither is part of this repository. The suites' requirements are installed into
``.cache/otel-contrib``, the instrumentations from the checkout. A pytest plugin, ``plugin.py``, puts the bridge under the
API and in place of the SDK's ``TracerProvider``, so the suites run unchanged.
"""
