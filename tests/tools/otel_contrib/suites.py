"""The suites, their requirements, and the tests that are known to fail on tracekit alone."""

from __future__ import annotations

__all__ = ["DIFFERENT", "PRIVATE", "REQUIREMENTS", "SDK_TESTS", "SUITES"]

SUITES = [
    "wsgi",
    "asgi",
    "flask",
    "django",
    "fastapi",
    "starlette",
    "httpx",
    "requests",
    "urllib",
    "urllib3",
    "aiohttp-client",
    "aiohttp-server",
    "sqlite3",
    "dbapi",
    "sqlalchemy",
    "psycopg",
    "asyncpg",
    "redis",
    "celery",
    "grpc",
    "jinja2",
    "asyncio",
    "logging",
    "threading",
    "tornado",
    "falcon",
    "pyramid",
    "click",
    "pika",
    "aio-pika",
    "kafka-python",
]

# One environment for all suites: newer versions than the suites pin, except where their tests need an older one.
REQUIREMENTS = [
    "aio-pika",
    "aiohttp",
    "aiosqlite",
    "asgiref",
    "asyncpg",
    "blinker",
    "celery",
    "click",
    "django<6",
    "fakeredis",
    "falcon>=4,<5",
    "fastapi==0.137.2",
    "flask",
    "greenlet",
    "grpcio",
    "hatchling",
    "http_server_mock==1.7",
    "httpx",
    "httpx2",
    "jinja2",
    "kafka-python==3.0.8",
    "mocket==3.14.1",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-semantic-conventions",
    "opentelemetry-test-utils",
    "packaging",
    "pika",
    "protobuf==3.20.3",
    "psycopg[binary]",
    "pyparsing",
    "pyramid",
    "pytest",
    "pytest-aiohttp",
    "pytest-asyncio",
    "python-dateutil",
    "redis<6",
    "requests",
    "respx",
    "setuptools<82",
    "sqlalchemy>=2,<2.1",
    "starlette==1.3.1",
    "tornado",
    "urllib3",
    "werkzeug",
    "wrapt>=1,<3",
]

# Of OpenTelemetry Python's own tests, those of traces. Most test classes of the SDK that tracekit does not replace.
SDK_TESTS = ("tests/trace",)

PRIVATE = "reads private names of the SDK"
_METRICS = "counts a span of RECORD_ONLY as dropped: it is not recorded"
_LOGS = "wants a log record: late calls have no effect, and nothing is logged"

# The tests that fail on tracekit alone, by the beginning of their name, with the reason.
DIFFERENT = {
    "TestSpan::test_add_link_with_invalid_span_context_with_tracestate": "a tracestate that is a text, no TraceState",
    "TestSpan::test_ended_span": _LOGS,
    "TestSpan::test_invalid_attribute_values": "an attribute of an unknown type is recorded as its str(), not as None",
    "TestSpan::test_status_cannot_set_unset": _LOGS,
    "TestSpanCreation::test_span_processor_for_source": PRIVATE,
    "TestTracerProvider::test_tracer_provider_init_default": PRIVATE,
    "TestTracerProviderMetrics::test_record_only": _METRICS,
}
